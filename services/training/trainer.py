"""The training loop: seeded, on one device, full or sampled softmax over cosines."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model_repo.ranker.network import Network, Shape
from services.training.examples import Sequences, batches, target_weights, windows
from services.training.options import TrainingOptions

WARM_UP = 0.05  # share of the steps
FLOOR = 0.05  # of the learning rate, reached at the end

Progress = Callable[[float], None]


def new_network(items: int, options: TrainingOptions) -> Network:
    """An untrained network for a catalogue of *items*, the same for the same seed."""
    torch.manual_seed(options.seed)
    return Network(
        Shape(
            items=items,
            dim=options.dim,
            layers=options.layers,
            heads=options.heads,
            tokens=options.tokens,
            dropout=options.dropout,
        )
    )


def fit(
    network: Network,
    found: Sequences,
    options: TrainingOptions,
    *,
    epochs: int,
    peak: float = 1.0,
    progress: Progress = lambda share: None,
) -> float:
    """
    Train *network* in place.

    Args:
        peak: Scales the learning rate; below 1 for fine-tuning.
        progress: Called with the share done, 0 to 1, after each step.

    Returns:
        The mean loss of the last epoch, in nats.
    """
    rng = np.random.default_rng(options.seed)
    weights = target_weights(found, options)
    cut = windows(found.rows, options.tokens)
    optimizer = torch.optim.AdamW(
        network.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    network.train()
    mean_loss = math.nan
    for epoch in range(epochs):
        total, mass, done = 0.0, 0.0, 0
        for batch in batches(found, cut, weights, options.tokens_a_batch, rng):
            share = (epoch + done / len(cut.starts)) / epochs
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * peak * _schedule(share)
            loss, weight = step(network, batch.tokens, batch.targets, batch.weights, options)
            done += len(batch.targets)
            if weight == 0:
                continue
            optimizer.zero_grad()
            (loss / weight).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            total, mass = total + loss.item(), mass + weight
            progress(min(1.0, (epoch + done / len(cut.starts)) / epochs))
        mean_loss = total / max(mass, 1e-9)
    network.eval()
    return mean_loss


def step(
    network: Network,
    tokens: tuple[NDArray[np.int64], ...],
    targets: NDArray[np.int64],
    weights: NDArray[np.float32],
    options: TrainingOptions,
) -> tuple[Tensor, float]:
    """The summed weighted loss of one batch, and the sum of its weights."""
    users = network(tuple(torch.from_numpy(values) for values in tokens))  # (B, T, D)
    chosen = torch.from_numpy(weights > 0)
    users, weight = users[chosen], torch.from_numpy(weights)[chosen]  # (M, D), (M,)
    target = torch.from_numpy(targets)[chosen] - 1  # (M,) rows of the item vectors
    items = network.item_vectors()
    if len(items) <= options.full_softmax_below:
        losses = F.cross_entropy(network.scores(users, items), target, reduction="none")
    else:
        losses = _sampled_losses(network, users, items, target, options.negatives)
    return (losses * weight).sum(), float(weight.sum())


def _sampled_losses(
    network: Network, users: Tensor, items: Tensor, target: Tensor, negatives: int
) -> Tensor:
    drawn = torch.randint(len(items), (negatives,))  # shared by the whole batch
    others = network.scores(users, items[drawn])  # (M, N)
    # A negative that is the target itself would be pushed away and pulled at once.
    others = others.masked_fill(drawn[None, :] == target[:, None], float("-inf"))
    own = network.shape.logit_scale * (users * items[target]).sum(-1, keepdim=True)  # (M, 1)
    logits = torch.cat([own, others], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(target), reduction="none")


def _schedule(share: float) -> float:
    """Linear warm-up, then a cosine down to the floor."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
    return FLOOR + (1 - FLOOR) * cosine
