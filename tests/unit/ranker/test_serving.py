"""What the ranker promises whoever asks it, without Triton."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_repo.ranker.network import Network, Shape
from model_repo.ranker.serving import Version, fastest
from stream.keys import item_key
from tests.tiny_model import TINY, build_tiny_version, clicks_on

ITEM_IDS = [f"item-{number}" for number in range(30)]
KEYS = np.array([item_key(one) for one in ITEM_IDS], np.int64)
UNKNOWN = item_key("nobody sells this")
LENGTH = TINY.history_length


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("versions") / "1", ITEM_IDS)


@pytest.fixture(scope="module")
def version(directory: Path) -> Version:
    return Version.load(directory)


def asked(*histories: list[int], length: int = LENGTH):
    return clicks_on(*histories, length=length)


def test_it_learnt_what_the_log_shows(version: Version):
    """Users walk through the items in order: after 3, 4 and 5 comes 6."""
    answer = version.rank(*asked(list(KEYS[3:6])))

    assert answer.item_keys[0, 0] == KEYS[6]


def test_an_answer_does_not_depend_on_who_shares_the_batch(version: Version):
    """Triton merges strangers into one batch."""
    histories = [list(KEYS[:used]) for used in (1, 7, 20, 0)] + [[UNKNOWN]]
    together = version.rank(*asked(*histories))

    for row, history in enumerate(histories):
        alone = version.rank(*asked(history))
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)
        np.testing.assert_array_equal(alone.item_keys[0], together.item_keys[row])


def test_warming_up_changes_no_answer(directory: Path, version: Version):
    warm, _ = fastest(Version.load(directory))
    warm.warm_up(256)

    answer, same = (one.rank(*asked(list(KEYS[3:6]))) for one in (warm, version))
    np.testing.assert_allclose(answer.scores, same.scores, atol=1e-5)
    np.testing.assert_array_equal(answer.item_keys, same.item_keys)


@pytest.mark.parametrize("used", range(1, LENGTH + 1))
def test_an_answer_does_not_depend_on_the_padding(version: Version, used: int):
    """A worker may send longer rows than the history needs."""
    history = [int(KEYS[place % 30]) for place in range(used)]
    tight = version.rank(*asked(history, length=used))
    wide = version.rank(*asked(history, length=LENGTH + 13))

    np.testing.assert_allclose(tight.scores, wide.scores, atol=1e-5)


def test_every_item_within_reach_changes_the_answer(version: Version):
    """A mask that hides some positions would go unnoticed in the metrics."""
    reach = TINY.tokens
    history = list(KEYS[:reach])
    plain = version.rank(*asked(history)).user_vectors[0]

    for place in range(reach):
        changed = [*history]
        changed[place] = int(KEYS[-1])
        assert np.abs(version.rank(*asked(changed)).user_vectors[0] - plain).max() > 1e-6, place


def test_all_fifty_positions_of_a_full_network_count():
    """The sizes that are served by default, and not only those that are quick to train."""
    torch.manual_seed(0)
    tokens = Shape(items=60).tokens
    keys = np.arange(1, 61, dtype=np.int64)
    full = Version(Network(Shape(items=60)), keys, np.ones(60, np.float32), k=200)
    history = keys[:tokens].tolist()
    plain = full.rank(*asked(history, length=tokens)).user_vectors[0]

    changes = []
    for place in range(tokens):
        changed = [*history[:place], 60, *history[place + 1 :]]
        answer = full.rank(*asked(changed, length=tokens))
        changes.append(np.abs(answer.user_vectors[0] - plain).max())

    assert tokens == 50
    assert min(changes) > 1e-6
    assert full.rank(*asked(history, length=tokens)).item_keys.shape == (1, 60)  # k is above it


def test_items_it_does_not_know_are_left_out(version: Version):
    """The catalogue grows between two releases."""
    known = version.rank(*asked(list(KEYS[3:6])))
    keys, types, ages_s, *rest = asked([int(KEYS[3]), UNKNOWN, int(KEYS[4]), int(KEYS[5]), UNKNOWN])
    ages_s[0, -5:] = (120, 120, 60, 0, 0)

    mixed = version.rank(keys, types, ages_s, *rest)

    np.testing.assert_array_equal(mixed.item_keys, known.item_keys)


@pytest.mark.parametrize("history", [[], [UNKNOWN]])
def test_without_a_history_the_popular_items_come_first(version: Version, history: list[int]):
    """An all-padding row through a Transformer would be noise, or NaN."""
    answer = version.rank(*asked(history))

    by_popularity = np.argsort(-version.popularity, kind="stable")
    np.testing.assert_array_equal(answer.item_keys[0], version.item_keys[by_popularity])
    assert not answer.user_vectors.any()


def test_the_ranking_is_complete_ordered_and_finite(version: Version):
    """Padding, doubles or NaN in a slate would be on somebody's page."""
    rng = np.random.default_rng(0)
    shape = (16, LENGTH)
    keys = rng.choice([*KEYS.tolist(), 0, UNKNOWN], shape)
    types = rng.integers(-3, 40, shape).astype(np.int32)  # codes of tomorrow, and nonsense
    ages_s = np.sort(rng.uniform(0, 1e9, shape), axis=1)[:, ::-1].astype(np.float32)
    rest = rng.integers(-(2**31), 2**31, (2, *shape)).astype(np.int32)

    answer = version.rank(keys, types, ages_s, *rest)

    assert answer.item_keys.shape == (16, len(KEYS))
    assert (np.sort(answer.item_keys, axis=1) == np.sort(KEYS)).all()
    assert (np.diff(answer.scores, axis=1) <= 0).all()
    assert np.isfinite(answer.scores).all()


def test_a_run_of_one_item_is_one_token(version: Version):
    """Ten clicks on one product must not push out the other nine items."""
    runs = [int(key) for key in KEYS[: TINY.tokens] for _ in range(2)]
    keys, types, ages_s, *rest = asked(runs)
    apart = version.rank(keys, types, ages_s, *rest)
    keys[0, -2 * TINY.tokens] = KEYS[-1]  # the oldest event of the oldest run
    changed = version.rank(keys, types, ages_s, *rest)

    assert np.abs(apart.user_vectors - changed.user_vectors).max() > 1e-6


def test_a_release_can_be_read_as_a_pretrained_model(directory: Path):
    """Others fine-tune and export with the tools that they know."""
    from model_repo.ranker.pretrained import RankerModel

    model = RankerModel.from_pretrained(directory)

    expected = Version.load(directory).network
    for name, weights in expected.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], weights), name
