"""The guarantee broken on purpose: that each break still finds the rule that it is to break."""

import pytest

from tests.chaos.mutations import MUTATIONS, ROOT, Edit
from tests.integration.statistics_cost import NO_STATISTICS


@pytest.mark.parametrize(
    "edit",
    [pytest.param(edit, id=one.rule) for one in (*MUTATIONS, NO_STATISTICS) for edit in one.edits],
)
def test_what_is_to_be_broken_is_there(edit: Edit) -> None:
    """`make mutations` takes a quarter of an hour and runs seldom; code changes daily."""
    assert (ROOT / edit.path).read_text().count(edit.original) == 1
