"""Settings that decide where state lies."""

import pytest
from pydantic import ValidationError

from services.settings import Settings


def test_prefixes_that_differ_have_projects_that_differ() -> None:
    """Feast refuses dots and hyphens; folding them into one character mixes two shops."""
    prefixes = ["", "a.", "a-", "a_", "a__", "a_d", "a.b-", "a.b_"]

    projects = {Settings(prefix=prefix).feast_project for prefix in prefixes}

    assert len(projects) == len(prefixes)
    assert all(project.replace("_", "").isalnum() for project in projects)


def test_a_prefix_that_feast_cannot_take_is_refused_at_the_start() -> None:
    """Feast project names do not begin with an underscore."""
    with pytest.raises(ValidationError):
        Settings(prefix="_a.")
