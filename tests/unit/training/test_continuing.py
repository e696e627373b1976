"""Going on from a version: what is new is learnt, what is known is kept, items find their rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.models.proof import Limits, check_quality
from services.models.versions import BadVersion, read_manifest
from services.training.continuing import Continuing, fine_tune, grown, load_trained
from services.training.log import EventLog
from services.training.pipeline import Trained, train
from services.training.release import write_version
from services.training.vocabulary import Vocabulary
from stream.keys import item_key
from tests.tiny_model import TINY, tiny_log

IDS = [f"item-{number}" for number in range(20)]
NEW = [f"new-{number}" for number in range(6)]
DAY_MS = 86_400_000
TEXTUAL = replace(TINY, delta_dropout=0.2)


def texts(item_ids: list[str]) -> np.ndarray:
    """Vectors of length 1 that tell items apart."""
    made = [np.random.default_rng(abs(item_key(one))).normal(size=8) for one in item_ids]
    return np.array([one / np.linalg.norm(one) for one in made], np.float16)


def later(log: EventLog, days: float) -> EventLog:
    return replace(log, times_ms=log.times_ms + round(days * DAY_MS))


def after(trained: Trained, item_id: str) -> str:
    """What is ranked first after a click on *item_id*."""
    known = trained.vocabulary
    version = Version(trained.network, known.item_keys, known.popularity, 5)
    one = np.ones((1, 1), np.int32)
    answer = version.rank(
        np.array([[item_key(item_id)]]), one * 3, np.zeros((1, 1), np.float32), one * 0, one * 0
    )
    return known.item_ids[np.searchsorted(known.item_keys, answer.item_keys[0, 0])]


@pytest.fixture(scope="module")
def base() -> Trained:
    return train(tiny_log(IDS), TINY, holdout_from_ms=10**15)


def test_new_items_are_learnt_and_old_ones_are_not_forgotten(base: Trained):
    """Last night's arrivals; and what was known is replayed beside them."""
    old, new = tiny_log(IDS), later(tiny_log(NEW, users=40), 30)
    both = EventLog(
        tuple(IDS + NEW),
        np.append(old.users, new.users + 1000),
        np.append(old.items, new.items + len(IDS)),
        *(np.append(getattr(old, n), getattr(new, n)) for n in ("types", "times_ms")),
        np.append(old.sessions, new.sessions + 1000),
        *(np.append(getattr(old, n), getattr(new, n)) for n in ("prices", "contexts")),
    )

    trained = fine_tune(base, both, TINY, Continuing(days=7, epochs=25, replay=0.5))

    assert set(trained.vocabulary.item_ids) == {*IDS, *NEW}
    assert after(trained, "new-2") == "new-3"
    assert after(trained, "item-7") == "item-8"
    assert after(base, "item-7") == "item-8"
    assert len(base.vocabulary.item_ids) == len(IDS)


def test_an_item_keeps_its_row_by_key_and_a_new_one_starts_as_its_text():
    """Rows move when keys come between; another item's vector would go unnoticed."""
    log = tiny_log(IDS)
    trained = train(log, TEXTUAL, holdout_from_ms=10**15, text_vectors=texts(IDS))
    ids = sorted(IDS + NEW, key=item_key)
    keys = np.array([item_key(one) for one in ids])
    larger = Vocabulary(tuple(ids), keys, np.zeros(len(ids), np.float32))

    network = grown(trained.network, trained.vocabulary, larger, texts(ids))

    before, now = trained.network.item_vectors().detach(), network.item_vectors().detach()
    for place, item_id in enumerate(trained.vocabulary.item_ids):
        assert before[place].allclose(now[ids.index(item_id)], atol=1e-6)
    from_text = network.vectors_from_text(network.items.text_vectors[1:].float()).detach()
    for item_id in NEW:
        place = ids.index(item_id)
        assert float((now[place] * from_text[place]).sum()) > 0.5


def test_only_what_is_new_is_passed_and_some_of_the_old(base: Trained):
    """A year of history must not cost a year's training each night."""
    from services.training.shards import RecentShards

    old, new = tiny_log(IDS, users=200), later(tiny_log(IDS, users=30), 30)
    users = np.append(old.users, new.users + 1000)
    both = EventLog(
        tuple(IDS), users, *(np.append(getattr(old, n), getattr(new, n)) for n in
        ("items", "types", "times_ms", "sessions", "prices", "contexts")),
    )  # fmt: skip

    (made,) = RecentShards(
        both, np.arange(1, 21), TINY, since_ms=new.first_ms, until_ms=both.last_ms + 1, replay=0.5
    )

    recent = [made.found.times_ms[end - 1] >= new.first_ms for end in made.cut.ends]
    assert (sum(recent), len(recent)) == (60, 90)  # windows of ten tokens, two a user


def test_a_written_version_is_gone_on_from(base: Trained, tmp_path: Path):
    """What `--continue` reads is what `headrace train` wrote."""
    directory = write_version(tmp_path / "version", base, TINY)

    again, options = load_trained(directory)

    assert options == TINY
    assert again.vocabulary.item_ids == base.vocabulary.item_ids
    assert after(again, "item-3") == after(base, "item-3")
    assert (again.first_ms, again.last_ms) == (base.first_ms, base.last_ms)


def test_a_version_made_elsewhere_cannot_be_gone_on_from(tmp_path: Path):
    """Its network is not ours."""
    (tmp_path / "manifest.json").write_text("{}")

    with pytest.raises(CommandFailed, match="cannot be gone on from"):
        load_trained(tmp_path)


def test_it_is_judged_beside_what_it_was_and_the_gate_compares_the_two(
    base: Trained, tmp_path: Path
):
    """Last month's figure of another week says nothing; both are asked the same."""
    log = later(tiny_log(IDS), 1)
    released = replace(base, created_at="2026-01-01T00:00:00+00:00")

    trained = fine_tune(released, log, TINY, Continuing(), holdout_from_ms=log.last_ms - 60_000)

    assert trained.targets > 0
    assert trained.qualities["ranker"].hr_at_20 > 0.9
    new = read_manifest(write_version(tmp_path / "new", trained, TINY))
    serving = replace(new, created_at=str(released.created_at), metrics={"protocol": "another"})
    other = replace(serving, created_at="2025")
    assert "the serving version's was" in check_quality(new, serving, Limits())
    assert "not compared" in check_quality(new, other, Limits())
    worse = {**new.metrics, "ranker": {"hr_at_20": 0.5}}
    with pytest.raises(BadVersion, match=r"HR@20 is 0\.5"):
        check_quality(replace(new, metrics=worse), serving, Limits())
