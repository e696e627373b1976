"""What a network is trained on: cross-entropy of the next item, over all items or over a sample."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model_repo.ranker.network import Network, Reading, add_copies
from services.training.examples import Batch
from services.training.options import TrainingOptions


def weighted_loss(network: Network, batch: Batch, options: TrainingOptions) -> Tensor:
    """The weighted loss of *batch* in nats, summed over its targets."""
    device = next(network.parameters()).device
    tokens = tuple(torch.from_numpy(values).to(device) for values in batch.tokens)
    weights = torch.from_numpy(batch.weights).to(device)
    targets = torch.from_numpy(batch.targets).to(device)
    chosen = weights > 0  # (B, T), M of them
    reading = network(tokens)
    if network.shape.items <= options.full_softmax_below:
        losses = _full_losses(network, reading, tokens[0], targets, chosen)
    else:
        shares = torch.from_numpy(batch.shares).to(device)
        losses = _sampled_losses(network, reading, tokens[0], targets, chosen, shares, options)
    return (losses * weights[chosen]).sum()


def _full_losses(
    network: Network, reading: Reading, history: Tensor, targets: Tensor, chosen: Tensor
) -> Tensor:
    """``(M,)`` losses over the whole catalogue."""
    scores = network.scores(reading.users[chosen], network.item_vectors())  # (M, V)
    if network.copying is not None:
        scores = add_copies(scores, reading.copies[chosen], _histories(history)[chosen])
    return F.cross_entropy(scores, targets[chosen] - 1, reduction="none")


def _sampled_losses(
    network: Network,
    reading: Reading,
    history: Tensor,
    targets: Tensor,
    chosen: Tensor,
    shares: Tensor,
    options: TrainingOptions,
) -> Tensor:
    """``(M,)`` losses over the target, negatives shared by the batch, and the history."""
    users, target = reading.users[chosen], targets[chosen]  # (M, D), (M,)
    drawn, log_odds = _negatives(target, network.shape.items, shares, options)  # (N,), (N,)
    # A negative that is the target itself would be pushed away and pulled at once.
    is_hit = drawn[None, :] == target[:, None]  # (M, N)
    scaled = network.shape.logit_scale * users
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    others = LogSumExp.apply(  # type: ignore[no-untyped-call]
        scaled.to(dtype), network.vectors_of(drawn).to(dtype), log_odds, is_hit
    )  # (M, 1)
    own = (users * network.vectors_of(target)).sum(-1, keepdim=True)  # (M, 1)
    own = network.shape.logit_scale * own
    # Softmax over all of them, the negatives already summed into one.
    logits = [own, others]
    if network.copying is not None:
        is_target = _histories(history)[chosen] == target[:, None]  # (M, T)
        copied = (reading.copies[chosen] * is_target).sum(-1, keepdim=True)
        of_history = _history_scores(network, reading, history)[chosen]
        logits = [own + copied, others, of_history.masked_fill(is_target, float("-inf"))]
    return F.cross_entropy(torch.cat(logits, dim=1), torch.zeros_like(target), reduction="none")


class LogSumExp(torch.autograd.Function):
    """
    ``log Σ exp`` of scores on shared negatives, ``(M, 1)``, with one ``(M, N)`` matrix in memory.

    Plain autograd would keep and pass over five of them, which is most of a step's time on a CPU.
    Scores are cosines times a scale, so that the exponentials cannot overflow.
    """

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, vectors: Tensor, log_odds: Tensor, is_hit: Tensor
    ) -> Tensor:
        """Of ``(M, D)`` scaled users and ``(N, D)`` vectors, less *log_odds*, but for hits."""
        exps = (users @ vectors.T).float().sub_(log_odds).exp_().masked_fill_(is_hit, 0)
        total = exps.sum(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        ctx.save_for_backward(users, vectors, exps, total)
        return total.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of users and vectors."""
        users, vectors, exps, total = ctx.saved_tensors
        shares = (exps * (gradient / total)).to(users.dtype)  # (M, N)
        return shares @ vectors, shares.T @ users, None, None


def _negatives(
    target: Tensor, items: int, shares: Tensor, options: TrainingOptions
) -> tuple[Tensor, Tensor]:
    """
    Items ``(N,)`` to tell targets from, and by how much each is overrepresented, as a logarithm.

    Uniform draws, and if so chosen the batch's own targets too (mixed negative sampling: Yang et
    al., WWW 2020). A popular item is a target more often; taking the logarithm of its expected
    number off its score (Bengio & Senécal, 2008; Yi et al., RecSys 2019) leaves the optimum where
    uniform draws have it.
    """
    drawn = torch.randint(1, items + 1, (options.negatives,), device=target.device)
    if not options.in_batch_negatives:
        return drawn, torch.zeros(options.negatives, device=target.device)
    drawn = torch.cat([drawn, target])
    share = F.pad(shares, (0, items + 1 - len(shares)))[drawn]
    return drawn, torch.log1p(len(target) * share * items / options.negatives)


def _histories(history: Tensor) -> Tensor:
    """``(B, T)`` to ``(B, T, T)``: the same row for each of its places."""
    return history[:, None, :].expand(-1, history.shape[1], -1)


def _history_scores(network: Network, reading: Reading, history: Tensor) -> Tensor:
    """``(B, T, T)`` scores of the items that each place looks back on, each item once."""
    length = history.shape[1]
    vectors = network.vectors_of(history)  # (B, T, D)
    same = history[:, :, None] == history[:, None, :]  # (B, T, T)
    scores = network.shape.logit_scale * reading.users @ vectors.transpose(1, 2)
    scores = scores + reading.copies @ same.to(reading.copies.dtype)
    at = torch.arange(length, device=history.device)
    later = same & (at[None, :] > at[:, None])
    again = torch.where(later, at, length).amin(-1)  # (B, T) where the item comes next
    newest = (at[None, :] <= at[:, None]) & (again[:, None, :] > at[None, :, None])
    return scores.masked_fill(~newest | (history == 0)[:, None, :], float("-inf"))
