"""A run that was interrupted ends as if it had not been; several processes learn as one does."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model_repo.ranker.network import Network
from services.errors import CommandFailed
from services.training.checkpoints import Checkpoint
from services.training.examples import Examples, examples, sequences
from services.training.trainer import EarlyStop, fit, new_network
from tests.tiny_model import TINY, tiny_log

IDS = [f"item-{number}" for number in range(30)]
# Dropout and sampling draw from torch's generator: a resumed run must find it as it was.
RANDOM = replace(TINY, dropout=0.3, full_softmax_below=1, negatives=8)


class Killed(Exception):
    """The process dies here."""


def two_shards() -> list[Examples]:
    logs = (tiny_log(IDS, users=users, events=12) for users in (20, 30))
    return [examples(sequences(log, np.arange(1, 31)), RANDOM) for log in logs]


def weights(network: Network) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


def same(one: Network, other: Network) -> bool:
    return all(one.state_dict()[name].equal(value) for name, value in weights(other).items())


@pytest.mark.parametrize("killed_at", [1, 7, 15])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path: Path, killed_at: int):
    """Bit for bit: a figure must not depend on how often the machine was rebooted."""
    shards = two_shards()
    whole = new_network(30, RANDOM)
    loss = fit(whole, shards, RANDOM, epochs=3)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", run={"seed": 1}, every_s=0)
    steps = 0

    def progress(share: float) -> None:
        nonlocal steps
        steps += 1
        if steps == killed_at + 1:  # one step more than what was kept
            raise Killed

    first = new_network(30, RANDOM)
    with pytest.raises(Killed):
        fit(first, shards, RANDOM, epochs=3, progress=progress, checkpoint=checkpoint)
    torch.manual_seed(99)
    resumed = new_network(30, replace(RANDOM, seed=99))
    resumed_loss = fit(resumed, shards, RANDOM, epochs=3, checkpoint=checkpoint)

    assert same(resumed, whole)
    assert resumed_loss == loss


def test_a_finished_run_is_not_run_again(tmp_path: Path):
    """Resuming after the last epoch must not train one more."""
    checkpoint = Checkpoint(tmp_path / "run.safetensors", run={})
    network = new_network(30, RANDOM)
    fit(network, two_shards(), RANDOM, epochs=2, checkpoint=checkpoint)

    again = new_network(30, RANDOM)
    fit(again, [], RANDOM, epochs=2, checkpoint=checkpoint)

    assert same(again, network)


def test_early_stopping_goes_back_to_the_best_epoch(tmp_path: Path):
    """What was learnt by heart after that is not wanted."""
    shards = two_shards()
    best = new_network(30, RANDOM)
    kept: list[dict[str, torch.Tensor]] = []
    scores = iter([1.0, 2.0, 1.5, 1.9, 9.0])

    def score(network: Network) -> float:
        kept.append({name: value.clone() for name, value in weights(network).items()})
        return next(scores)

    fit(best, shards, RANDOM, epochs=5, stop=EarlyStop(score, patience=2))

    assert len(kept) == 4
    assert all(value.equal(kept[1][name]) for name, value in weights(best).items())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    """Going on with another learning rate would be neither run."""
    path = tmp_path / "run.safetensors"
    Checkpoint(path, run={"seed": 1, "dim": 16}).save({"x": torch.zeros(1)}, {})

    with pytest.raises(CommandFailed, match=r"other choices \(dim\)"):
        Checkpoint(path, run={"seed": 1, "dim": 32}).load()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CommandFailed, match="damaged"):
        Checkpoint(path, run={"seed": 1, "dim": 16}).load()


def test_bf16_learns(tmp_path: Path):
    """On a GPU it halves time and memory; here it must only be right."""
    options = replace(TINY, precision="bf16")
    network = new_network(30, options)

    first = fit(network, two_shards(), options, epochs=1)
    last = fit(network, two_shards(), options, epochs=3)

    assert last < first
    assert all(one.dtype == torch.float32 for one in network.parameters())


WORKER = """
import json, pathlib, sys, torch
from dataclasses import replace
from services.training import distributed
from services.training.trainer import fit, new_network
from safetensors.torch import save_file
from tests.tiny_model import TINY
from tests.unit.training.test_resuming import two_shards

torch.set_num_threads(1)
with distributed.joined("cpu"):
    options = replace(TINY, seed=TINY.seed + distributed.rank())  # as if they had begun apart
    network = new_network(30, options)
    loss = fit(network, two_shards(), TINY, epochs=2)
    save_file(network.state_dict(), f"{sys.argv[1]}/{distributed.rank()}.safetensors")
    said = {"size": distributed.size(), "loss": loss}
    pathlib.Path(f"{sys.argv[1]}/{distributed.rank()}.json").write_text(json.dumps(said))
"""


def test_two_processes_learn_what_one_does(tmp_path: Path):
    """Both end with the same weights, and with those that one process finds."""
    (tmp_path / "worker.py").write_text(WORKER)
    torchrun = Path(sys.executable).with_name("torchrun")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [torchrun, "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", address, tmp_path / "worker.py", tmp_path]
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": ""}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    alone = new_network(30, TINY)
    loss = fit(alone, two_shards(), TINY, epochs=2)

    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert [line["size"] for line in said] == [2, 2]
    assert said[0]["loss"] == pytest.approx(loss, rel=1e-3)
    for name, value in alone.state_dict().items():
        assert one[name].equal(other[name])
        assert torch.allclose(one[name], value, atol=1e-3)
