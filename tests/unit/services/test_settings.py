"""Settings that decide where state lies."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.docs.settings_page import document, kinds
from services.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


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


def test_the_page_of_settings_is_current() -> None:
    """After a change of services/settings.py: `make docs`."""
    assert PAGE.read_text() == document()


@pytest.mark.parametrize("kind", kinds())
def test_every_setting_is_described(kind: type[Settings]) -> None:
    """The page is all that an operator has."""
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
