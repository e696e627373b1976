"""Which text an item has for training: the one that was known, not the one that came later."""

from pathlib import Path

from services.training.dataset import write_dataset
from services.training.texts import archived_items
from tests.builders import an_event
from tests.unit.features.test_items import HOUR_MS, T0_MS, archived
from tests.unit.training.test_dataset import a_source


def test_items_of_the_archive_are_as_they_were_when_training_ended(tmp_path: Path):
    """A title that was rewritten in the held-out week would tell of that week."""
    archived(
        tmp_path / "p-items.v1",
        ("hat", 1, {"title": "Hat"}),
        ("hat", 6, {"title": "Hat, as worn in hour seven"}),
        ("cap", 1, {"title": "Cap"}),
        ("cap", 7, {"title": "Cap, when it was first seen"}),
        ("cap", 9, {"title": "Cap, after that"}),
    )
    happened = [("hat", 2), ("hat", 7), ("cap", 8), ("hat", 10)]
    events = [an_event(item_id=item, at_ms=T0_MS + hour * HOUR_MS) for item, hour in happened]
    data = write_dataset(a_source([*events, an_event(item_id="unknown")]), tmp_path / "set")

    holdout_from_ms = T0_MS + 5 * HOUR_MS
    found = archived_items(tmp_path / "p-events.v1", data, holdout_from_ms)

    assert {item_id: item.title for item_id, item in found.items()} == {
        "hat": "Hat",
        "cap": "Cap, when it was first seen",
    }
    assert archived_items(tmp_path / "other-events.v1", data, holdout_from_ms) == {}
