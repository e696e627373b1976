"""
How fast the ranker is: through Triton, in one process, and beside what bounds it from below.

Weights are random: what a network has learnt changes nothing of what it takes to compute.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network, Shape
from model_repo.ranker.serving import Version, fastest
from services.models.config import Placement
from services.models.loading import load_exactly
from services.models.repository import remove_version
from services.models.triton import connect, infer, read_contract
from services.training.options import TrainingOptions
from services.training.pipeline import Trained
from services.training.release import write_version
from services.training.vocabulary import Vocabulary

IN_PROCESS = "in process"
WARM_UP = 3
LEAST_TIMES = 5
TIMEOUT_S = 60.0
LENGTH = 50  # events in a history, each of another item: as many tokens

Tensors = dict[str, NDArray[Any]]
Ways = dict[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    catalogues: Sequence[int]
    batches: Sequence[int]
    dim: int
    device: str  # ``cpu`` or ``gpu``, of Triton and of what runs in this process
    seconds: float  # of calls for each figure, at least, and never fewer than five calls


@dataclass(frozen=True)
class Figure:
    """One way to rank one batch: rows a second back to back, times in turn with the others."""

    catalogue: int
    batch: int
    way: str
    rows_per_s: float
    p50_ms: float
    p99_ms: float


async def measured(
    asked: Asked, models: Path, triton: str, say: Callable[[str], None]
) -> list[Figure]:
    """
    Measure every way at every size, one after the other.

    Args:
        models: The repository of the Triton at the address *triton*; a model for each catalogue
            is written into it, and removed.
    """
    torch.set_num_threads(1)
    figures = []
    for catalogue in asked.catalogues:
        say(f"{catalogue:,} items: writing a version")
        folder = models / f"bench-{catalogue}"
        directory = _write(folder / "1", catalogue, asked.dim)
        try:
            await load_exactly(triton, folder, ["1"], Placement(asked.device))
            figures += await _at(catalogue, asked, directory, triton, folder.name, say)
        finally:
            await load_exactly(triton, folder, [], Placement(asked.device))
            remove_version(directory)
    return figures


async def _at(
    catalogue: int,
    asked: Asked,
    directory: Path,
    triton: str,
    model: str,
    say: Callable[[str], None],
) -> list[Figure]:
    plain = Version.load(directory, device="cuda" if asked.device == "gpu" else "cpu")
    version, why = fastest(plain)
    say(f"{catalogue:,} items: {why}")
    figures = []
    async with connect(triton) as client:
        contract = await read_contract(client, model, "1", TIMEOUT_S)
        for batch in asked.batches:
            tensors = _histories(version.item_keys, batch)

            async def through_triton(tensors: Tensors = tensors) -> None:
                await infer(client, model, "1", contract, tensors, TIMEOUT_S)

            ours: Ways = {"Triton": through_triton, IN_PROCESS: _calling(version, tensors)}
            references: Ways = {
                "matmul + top-k": _product_alone(version, batch),
                "stock fp32": _stock(plain, tensors),
            }
            rows_per_s = {
                way: batch / np.mean(await _back_to_back(run, asked.seconds))
                for way, run in (ours | references).items()
            }
            # Apart: the references read the tables of this process, and would leave them in the
            # cache for the ranker in this process, and not for Triton's.
            times = await _in_turn(ours, asked.seconds)
            times |= await _in_turn(references, asked.seconds)
            for way, times_s in times.items():
                figures.append(
                    Figure(
                        catalogue=catalogue,
                        batch=batch,
                        way=way,
                        rows_per_s=float(rows_per_s[way]),
                        p50_ms=float(np.percentile(times_s, 50)) * 1000,
                        p99_ms=float(np.percentile(times_s, 99)) * 1000,
                    )
                )
    return figures


def _calling(version: Version, tensors: Tensors) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        version.rank(*tensors.values())

    return run


def _product_alone(version: Version, batch: int) -> Callable[[], Awaitable[None]]:
    """What no ranker can do without: a score of each item, and the best of them."""
    users = torch.randn(batch, version.item_vectors.shape[1]).to(version.item_vectors.device)

    async def run() -> None:
        with torch.inference_mode():
            _fetch((users @ version.item_vectors.T).topk(version.k))

    return run


def _stock(version: Version, tensors: Tensors) -> Callable[[], Awaitable[None]]:
    """The same network as anybody would run it: float32, every position, a plain top-k."""
    network, places = version.network, np.searchsorted(version.item_keys, tensors["item_keys"]) + 1
    items = torch.from_numpy(places).to(version.item_vectors.device)
    others = torch.ones_like(items)
    tokens = (items, *[others] * 6)

    async def run() -> None:
        with torch.inference_mode():
            users = network(tokens).users[:, -1]
            _fetch(network.scores(users, version.item_vectors).topk(version.k))

    return run


def _fetch(best: "torch.return_types.topk") -> None:
    """Wait for it, as whoever asks has to: a GPU answers later than PyTorch returns."""
    best.values.cpu(), best.indices.cpu()


async def _back_to_back(run: Callable[[], Awaitable[None]], seconds: float) -> list[float]:
    """Seconds of each call of one way after the other: what it can do at most."""
    for _ in range(WARM_UP):
        await run()
    times_s: list[float] = []
    while sum(times_s) < seconds or len(times_s) < LEAST_TIMES:
        times_s.append(await _time(run))
    return times_s


async def _in_turn(ways: Ways, seconds: float) -> dict[str, list[float]]:
    """
    Seconds of each way's calls, one call of each in turn.

    Each then finds the caches as another left them, as a request does in production, and what
    else the machine does meets them all alike. Back to back, a loop in one process keeps its
    weights in the cache, and looks a third faster than any single call can be.
    """
    times_s: dict[str, list[float]] = {way: [] for way in ways}
    some_s = next(iter(times_s.values()))
    while sum(some_s) < seconds or len(some_s) < LEAST_TIMES:
        for way, run in ways.items():
            times_s[way].append(await _time(run))
    return times_s


async def _time(run: Callable[[], Awaitable[None]]) -> float:
    began_s = time.perf_counter()
    await run()
    return time.perf_counter() - began_s


def _histories(item_keys: NDArray[np.int64], batch: int) -> Tensors:
    rng = np.random.default_rng(batch)
    shape = (batch, LENGTH)
    return {
        "item_keys": rng.choice(item_keys, shape),
        "event_types": rng.integers(1, 12, shape).astype(np.int32),
        "ages_s": np.sort(rng.exponential(3600, shape), axis=1)[:, ::-1].astype(np.float32),
        "price_buckets": rng.integers(0, 32, shape).astype(np.int32),
        "context": rng.integers(0, 1 << 28, shape).astype(np.int32),
    }


def _write(directory: Path, items: int, dim: int) -> Path:
    torch.manual_seed(0)
    options = TrainingOptions(dim=dim, history_length=LENGTH)
    vocabulary = Vocabulary(
        item_ids=tuple(map(str, range(items))),
        item_keys=np.sort(np.random.default_rng(0).integers(1, 2**62, items)),
        popularity=np.linspace(1, 0, items, dtype=np.float32),
    )
    network = Network(Shape(items=items, dim=dim, layers=options.layers, heads=options.heads))
    trained = Trained(network, vocabulary, {}, 0, 0, 0)
    return write_version(directory, trained, options)


def by_size(figures: Sequence[Figure]) -> list[list[Figure]]:
    """The figures of one catalogue and batch at a time."""
    groups = groupby(figures, key=lambda one: (one.catalogue, one.batch))
    return [list(group) for _, group in groups]
