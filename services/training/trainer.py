"""The training loop: seeded, on one device, full or sampled softmax over cosines."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_repo.ranker.network import Network, Shape
from services.training import distributed
from services.training.checkpoints import Checkpoint
from services.training.examples import Batch, Examples, batches
from services.training.losses import weighted_loss
from services.training.options import TrainingOptions

WARM_UP = 0.05  # share of the steps
FLOOR = 0.05  # of the learning rate, reached at the end

Progress = Callable[[float], None]


def new_network(
    items: int, options: TrainingOptions, text_vectors: NDArray[np.floating] | None = None
) -> Network:
    """
    An untrained network for a catalogue of *items*, the same for the same seed.

    Args:
        text_vectors: ``(V, text_dim)``, of length 1, or 0 where an item has no text.
    """
    torch.manual_seed(options.seed)
    network = Network(
        Shape(
            items=items,
            dim=options.dim,
            layers=options.layers,
            heads=options.heads,
            tokens=options.tokens,
            dropout=options.dropout,
            embedding_dropout=options.embedding_dropout,
            text_dim=0 if text_vectors is None else text_vectors.shape[1],
            delta_dropout=options.delta_dropout,
            copy_heads=options.copy_heads,
        )
    )
    if text_vectors is not None:
        network.set_text(torch.from_numpy(text_vectors))
    return network


@dataclass
class EarlyStop:
    """
    Ends a run that no longer gets better, and goes back to the best weights it had.

    Attributes:
        score: What to maximise, measured after each epoch.
        patience: Epochs without a better score that are waited for.
    """

    score: Callable[[Network], float]
    patience: int
    best_score: float = -math.inf
    waited: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def over(self, network: Network) -> bool:
        """Judge *network* after an epoch; whether to end now."""
        score = self.score(network)
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self.best = {name: one.clone() for name, one in network.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience


@dataclass
class Run:
    """Everything that a run's future depends on: what a checkpoint keeps."""

    network: Network
    optimizer: torch.optim.Optimizer
    stop: EarlyStop | None = None
    epoch: int = 0
    batches: int = 0  # of this epoch that are done
    over: bool = False
    loss: float = 0.0  # of this epoch, summed
    mass: float = 0.0  # weights of its targets, summed

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it. Only the first of several processes writes."""
        if distributed.rank():
            return
        tensors = {f"network.{name}": one for name, one in self.network.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": one for name, one in values.items()}
        tensors |= {f"rng.{name}": one for name, one in _generators(self.network).items()}
        state = {name: getattr(self, name) for name in _PLACE}
        if self.stop is not None:
            tensors |= {f"best.{name}": one for name, one in self.stop.best.items()}
            state |= {"best_score": self.stop.best_score, "waited": self.stop.waited}
        checkpoint.save(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what *checkpoint* holds, if anything."""
        if (found := checkpoint.load()) is None:
            return
        tensors, state = found
        device = next(self.network.parameters()).device
        self.network.load_state_dict(_named(tensors, "network."))
        values: dict[int, dict[str, Tensor]] = {}
        for name, one in _named(tensors, "optimizer.").items():
            number, _, entry = name.partition(".")
            values.setdefault(int(number), {})[entry] = one
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": values, "param_groups": groups})
        torch.set_rng_state(tensors["rng.cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], device)
        for name in _PLACE:
            setattr(self, name, state[name])
        if self.stop is not None:
            self.stop.best = {k: v.to(device) for k, v in _named(tensors, "best.").items()}
            self.stop.best_score, self.stop.waited = state["best_score"], state["waited"]


_PLACE = ("epoch", "batches", "over", "loss", "mass")


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _generators(network: Network) -> dict[str, Tensor]:
    device = next(network.parameters()).device
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def fit(
    network: Network,
    shards: Sequence[Examples],
    options: TrainingOptions,
    *,
    epochs: int,
    peak: float = 1.0,
    progress: Progress = lambda share: None,
    checkpoint: Checkpoint | None = None,
    stop: EarlyStop | None = None,
) -> float:
    """
    Train *network* in place, on the device where it is.

    Args:
        shards: What to learn from; one at a time is in use, so they may be read from the disk.
        peak: Scales the learning rate; below 1 for fine-tuning.
        progress: Called with the share done, 0 to 1, after each step.
        checkpoint: Where to go on from, and to keep the run while it goes on.
        stop: Ends the run early, and then the network is the best one that it saw.

    Returns:
        The mean loss of the last epoch, in nats.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(),
        options.learning_rate,
        weight_decay=options.weight_decay,
        fused=True,  # one pass over the item table, not eight
    )
    run = Run(network, optimizer, stop)
    if checkpoint is not None:
        run.restore(checkpoint)
    distributed.share_weights(network)
    while run.epoch < epochs and not run.over:
        if run.batches == 0:
            run.loss = run.mass = 0.0
        network.train()
        _epoch(run, shards, options, epochs, peak, progress, checkpoint)
        network.eval()
        run.epoch, run.batches = run.epoch + 1, 0
        run.over = stop is not None and stop.over(network)
        if checkpoint is not None and (run.over or run.epoch == epochs or checkpoint.due()):
            run.save(checkpoint)
    network.eval()
    if stop is not None and stop.best:
        network.load_state_dict(stop.best)
    return distributed.total(run.loss) / max(run.mass, 1e-9)


def _epoch(
    run: Run,
    shards: Sequence[Examples],
    options: TrainingOptions,
    epochs: int,
    peak: float,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> None:
    for number, (done, after, batch) in enumerate(_batches(shards, options, run.epoch)):
        if number < run.batches:
            continue  # before the interruption
        for group in run.optimizer.param_groups:
            rate = _schedule((run.epoch + done) / epochs)
            group["lr"] = options.learning_rate * peak * rate
        _learn(run, batch, options)
        run.batches = number + 1
        progress(min(1.0, (run.epoch + after) / epochs))
        if checkpoint is not None and checkpoint.due():
            run.save(checkpoint)


def _batches(
    shards: Sequence[Examples], options: TrainingOptions, epoch: int
) -> Iterator[tuple[float, float, Batch]]:
    """Each batch of an epoch, with the share of the epoch that is done before and after it."""
    # The order follows from the epoch alone, so that a resumed run finds its place again.
    rng = np.random.default_rng((options.seed, epoch))
    for place, shard in enumerate(rng.permutation(len(shards)).tolist()):
        examples, done = shards[shard], 0
        if not len(examples):
            continue
        for batch in batches(examples, options.tokens_a_batch, rng):
            before = (place + done / len(examples)) / len(shards)
            done += len(batch.targets)
            yield before, (place + done / len(examples)) / len(shards), batch


def _learn(run: Run, batch: Batch, options: TrainingOptions) -> None:
    whole = float(batch.weights.sum())
    if whole == 0:
        return
    mine = batch.rows(distributed.rank(), distributed.size())
    run.optimizer.zero_grad()
    if mine.weights.any():
        device = next(run.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = weighted_loss(run.network, mine, options)
        (loss / whole).backward()  # type: ignore[no-untyped-call]
        run.loss += loss.item()
    distributed.add_gradients(run.network)
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    run.mass += whole


def _schedule(share: float) -> float:
    """Linear warm-up, then a cosine down to the floor."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return FLOOR + (1 - FLOOR) * cosine
