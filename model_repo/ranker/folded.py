"""
The network as it serves: the same numbers from a third of the operations.

What a single user costs is calling some two hundred small operations, and not their arithmetic. So
what does not depend on the request is computed once, and of the last block and of `Copying` only
what the newest token needs.
"""

import copy
import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .network import Copying, Network
from .tokens import CONTEXT_BITS, Tokens

BYTE = 256
# Not minus infinity: a token of padding sees nothing but padding, and would become NaN.
UNSEEN = -1e4


class Inputs(NamedTuple):
    """What is read of a batch of histories, padded left."""

    sides: Tensor  # (B, T, S) int64, rows of `Folded`'s table that are added up
    items: Tensor  # (B, T) int64, 1-based; 0 is padding


def inputs_of(tokens: Tokens) -> Inputs:
    """*tokens*, ``(B, T)`` each, as `Folded` reads them."""
    contexts, context = [], tokens.contexts
    for bits in CONTEXT_BITS:
        contexts.append(context & ((1 << bits) - 1))
        context = context >> bits
    sides = (
        tokens.type_sets % BYTE,
        tokens.type_sets // BYTE,
        tokens.last_types,
        tokens.gaps,
        tokens.dwells,
        tokens.price_buckets,
        *contexts,
    )
    return Inputs(torch.from_numpy(np.stack(sides, axis=-1)), torch.from_numpy(tokens.items))


Reader = Callable[[Inputs], tuple[Tensor, Tensor]]


def traced(read: Reader, sample: Inputs) -> Reader:
    """
    *read*, recorded while it reads *sample*: replayed without Python, for inputs of any shape.

    A user alone then takes half of the time. PyTorch calls this deprecated; what it recommends in
    its place wants a C compiler wherever a model is loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        recorded = torch.jit.trace(
            lambda sides, items: read(Inputs(sides, items)), tuple(sample), check_trace=False
        )
    return lambda inputs: recorded(*inputs)


class Folded:
    """What `Network.forward` gives with ``last_only``, of a network without texts."""

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32) -> None:
        """Compute in *dtype*; the item table is *network*'s own, and not copied."""
        self._dtype = dtype
        self._items = network.items.delta.weight.detach()  # (V + 1, D)
        tables = _tables(network)
        self._starts = torch.tensor([0, *accumulate(map(len, tables))][:-1])
        self._starts = self._starts.to(self._items.device)
        self._table = torch.cat(tables).to(dtype)
        self._blocks = copy.deepcopy(network.blocks).to(dtype).requires_grad_(False)
        self._biases = [_causal_bias(block.distance_bias).to(dtype) for block in network.blocks]
        self._norm = copy.deepcopy(network.norm).to(dtype).requires_grad_(False)
        self._copying = network.copying and LastCopying(network.copying, dtype)

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """User vectors ``(B, D)`` of length 1, and the copies ``(B, T)`` of each token's item."""
        sides, items = inputs
        batch, length = items.shape
        summed = F.embedding_bag((sides + self._starts).flatten(0, 1), self._table, mode="sum")
        x = tokens = F.embedding(items, self._items).to(self._dtype) + summed.view(
            batch, length, -1
        )
        padding = items == 0  # (B, T)
        unseen = torch.zeros_like(padding, dtype=self._dtype).masked_fill_(padding, UNSEEN)
        unseen = unseen[:, None, None]  # (B, 1, 1, T)
        for block, bias in zip(self._blocks, self._biases, strict=True):
            last = block is self._blocks[-1]
            seen_from = bias[:, length - 1 : length, :length] if last else bias[:, :length, :length]
            x = block(x, seen_from + unseen, last)
        x = self._norm(x)[:, 0]  # (B, D)
        if self._copying is None:
            return F.normalize(x.float(), dim=-1), x.new_zeros(batch, length).float()
        copies = self._copying(x, tokens, padding)
        return F.normalize(x.float(), dim=-1), copies.float()


class LastCopying:
    """
    `Copying` as the newest token sees it.

    The query is taken through the keys' weights, ``q (W x) = (q W) x``: one product for each user
    in place of one for each token.
    """

    def __init__(self, whole: Copying, dtype: torch.dtype) -> None:
        self._norm = copy.deepcopy(whole.norm).to(dtype).requires_grad_(False)
        self._query = (whole.query.weight.detach() / whole.DIM**0.5).to(dtype)
        key = whole.key.weight.detach().unflatten(0, (whole.heads, whole.DIM))  # (H, 32, 2 D)
        self._now, self._before = key.to(dtype).chunk(2, dim=-1)  # (H, 32, D) each
        self._bias = (whole.distance_bias.detach().flip(1) + whole.QUIET).to(dtype)  # (H, T)
        self._gain = copy.deepcopy(whole.gain).to(dtype).requires_grad_(False)
        self._scale = whole.GAIN

    def __call__(self, x: Tensor, tokens: Tensor, padding: Tensor) -> Tensor:
        """``(B, D)`` after the last block and ``(B, T, D)`` before the first: ``(B, T)``."""
        heads, length = self._bias.shape[0], tokens.shape[1]
        query = F.linear(x, self._query).unflatten(1, (heads, -1)).transpose(0, 1)  # (H, B, 32)
        now = (query @ self._now).transpose(0, 1)  # (B, H, D)
        before = (query @ self._before).transpose(0, 1)
        logits = now @ self._norm(tokens).transpose(1, 2) + self._bias[:, -length:]  # (B, H, T)
        # What a token adds to the logit of the one after it; nothing is before a first token.
        follows = (before @ tokens.transpose(1, 2)).masked_fill_(padding[:, None], 0)
        logits[:, :, 1:] += follows[:, :, :-1]
        gains = self._scale * self._gain(x)  # (B, H)
        copies = (gains[:, None] @ logits.sigmoid_())[:, 0]
        return copies.masked_fill_(padding, 0)


def _tables(network: Network) -> tuple[Tensor, ...]:
    """The embeddings of what is known of a token beside its item, in the order of `inputs_of`."""
    weight = network.type_set.weight.detach().T  # (16, D)
    bits = torch.arange(BYTE, device=weight.device)[:, None] >> torch.arange(
        8, device=weight.device
    )
    low, high = ((bits & 1).to(weight.dtype) @ half for half in weight.split(8))
    others = (network.last_type, network.gap, network.dwell, network.price, *network.context)
    return low, high, *(one.weight.detach() for one in others)


def _causal_bias(distance_bias: Tensor) -> Tensor:
    """``(H, T)`` to ``(H, T, T)``: what a token adds to the attention to each one before it."""
    at = torch.arange(distance_bias.shape[1], device=distance_bias.device)
    distance = at[:, None] - at
    bias = distance_bias.detach()[:, distance.clamp(min=0)]
    return bias.masked_fill(distance < 0, float("-inf"))
