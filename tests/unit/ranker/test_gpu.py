"""The ranker on a GPU gives the processor's answers. Runs where there is one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_repo.ranker.serving import Answer, Version, fastest, overlap, sampled_inputs
from tests.tiny_model import build_tiny_version

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ITEM_IDS = [f"item-{number}" for number in range(300)]
MOST = 64  # users in a request


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("versions") / "1", ITEM_IDS)


@pytest.fixture(scope="module")
def on_gpu(directory: Path) -> Version:
    version, _ = fastest(Version.load(directory, device="cuda"))
    version.warm_up(MOST)
    return version


def some(inputs: tuple[np.ndarray, ...], rows: slice) -> tuple[np.ndarray, ...]:
    return tuple(one[rows] for one in inputs)


def test_its_scores_are_the_processors(directory: Path):
    on_cpu = Version.load(directory)
    inputs = sampled_inputs(on_cpu)
    theirs = on_cpu.rank(*inputs)
    ours = Version.load(directory, device="cuda").rank(*inputs)

    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert overlap(ours, theirs) > 0.99


def test_a_graph_that_is_replayed_reads_the_new_histories(on_gpu: Version):
    inputs = sampled_inputs(on_gpu)
    first = on_gpu.rank(*inputs)
    again = on_gpu.rank(*some(inputs, slice(None, None, -1)))

    backwards = Answer(*(values[::-1] for values in again))
    assert overlap(first, backwards) > 0.99


@pytest.mark.parametrize("users", [1, 3, 33, MOST])
def test_an_answer_does_not_depend_on_what_fills_its_graph(on_gpu: Version, users: int):
    """Batches are filled up to a power of two, with what an older request has left there."""
    inputs = sampled_inputs(on_gpu)
    whole = on_gpu.rank(*inputs)
    part = on_gpu.rank(*some(inputs, slice(users)))

    assert overlap(part, Answer(*(values[:users] for values in whole))) > 0.99
