"""Rankers that are trained for a protocol: newcomers, nights, and what may be judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.errors import CommandFailed
from services.evaluation.queries import Histories, next_in_session
from services.evaluation.training import DAY_MS, Learner, Nightly, published
from stream.keys import item_key
from tests.tiny_model import TINY, build_tiny_version, tiny_log

ITEM_IDS = tuple(f"i{number}" for number in range(8))
NEW = 7


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A shop whose last item is new: nothing of it may be learnt, but its text is known."""
    texts = np.random.default_rng(0).normal(size=(len(ITEM_IDS), 384))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return Learner(tiny_log(ITEM_IDS), TINY, texts.astype(np.float16))


def test_an_item_that_was_hidden_from_training_is_ranked_by_its_text(learner: Learner) -> None:
    """As the item tower does in a shop, seconds after the item has come."""
    allowed = learner.log.items != NEW
    trained = learner.learn(allowed)
    histories = Histories(learner.log)
    queries = next_in_session(learner.log, 0).where(slice(0, 4))

    logits = learner.ranker(trained, histories)(queries)

    assert item_key(ITEM_IDS[NEW]) not in trained.vocabulary.item_keys
    assert learner.texts is not None
    text = torch.from_numpy(learner.texts[[NEW]].astype(np.float32))
    with torch.no_grad():
        vector = trained.network.vectors_from_text(text)[0].numpy()
        known = trained.network.item_vectors()
    ours = logits[:, NEW]
    assert np.isfinite(logits).all()
    assert np.abs(ours).max() <= trained.network.shape.logit_scale * np.linalg.norm(vector) + 1e-3
    assert ours.std() > 0  # it depends on who asks
    assert known.shape[0] == len(ITEM_IDS) - 1


def test_without_texts_a_new_item_comes_last(learner: Learner) -> None:
    """Nothing is known of it."""
    blind = Learner(learner.log, TINY)
    trained = blind.learn(learner.log.items != NEW)

    logits = blind.ranker(trained, Histories(learner.log))(
        next_in_session(learner.log, 0).where(slice(0, 4))
    )

    assert (logits.argmin(axis=1) == NEW).all()


def test_a_night_changes_the_ranker_and_a_day_does_not(learner: Learner) -> None:
    """Learnt is what came before the midnight; the base is left as it was."""
    half = len(learner.log) // 2
    second = np.arange(len(learner.log)) >= half
    log = replace(learner.log, times_ms=learner.log.times_ms + DAY_MS * second)
    learner = replace(learner, log=log)
    base = learner.learn(~second)
    histories = Histories(log)
    queries = next_in_session(replace(log, times_ms=log.times_ms % DAY_MS), 0)
    days = log.times_ms[queries.asked_at] // DAY_MS
    today, tomorrow = (queries.where(days == day).where(slice(0, 4)) for day in np.unique(days))
    frozen, nightly = learner.ranker(base, histories), Nightly(learner, base, histories)

    assert (nightly(today) == frozen(today)).all()
    assert (nightly(tomorrow) != frozen(tomorrow)).any()
    assert (learner.ranker(base, histories)(today) == frozen(today)).all()


def test_a_version_is_not_judged_on_what_it_has_learnt(tmp_path: Path) -> None:
    """It would be asked what it knows, and look better than it is."""
    directory = build_tiny_version(tmp_path / "v", ITEM_IDS)

    with pytest.raises(CommandFailed, match="after the first target"):
        published(directory, tiny_log(ITEM_IDS).first_ms)

    version, history_length = published(directory, tiny_log(ITEM_IDS).last_ms + 1)
    assert len(version.item_keys) == len(ITEM_IDS)
    assert history_length == TINY.history_length


def test_what_is_no_version_is_refused_in_one_line(tmp_path: Path) -> None:
    """A typing error must not end in a traceback."""
    with pytest.raises(CommandFailed, match="not a version of the ranker"):
        published(tmp_path, 0)
