"""
The ranker's network: how it reads a history, and how it scores the whole catalogue.

Training and serving share this file, which is copied into every version directory with its
neighbours; so it imports nothing else of ours, and not `transformers` either, which takes ten
seconds (see `pretrained.py`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tokens import CONTEXT_BITS, EVENT_TYPES, PRICE_BUCKETS, TIME_BUCKETS

SHADE = 0.2  # size of what is known of an action, beside the item, when training begins


@dataclass(frozen=True)
class Shape:
    """The numbers that make a network; all of them are in the version's config.json."""

    items: int
    dim: int = 64
    layers: int = 2
    heads: int = 2
    tokens: int = 50  # runs of one item that it looks back on
    dropout: float = 0.2
    embedding_dropout: float = 0.2
    text_dim: int = 0  # of the items' text vectors; 0 where items have no text
    delta_dropout: float = 0.0  # share of items that training sees as their text alone
    logit_scale: float = 14.0  # cosines are divided by a temperature of 0.07
    copy_heads: int = 4  # what they add to the scores of the history's own items; 0 is nothing


class Reading(NamedTuple):
    """What the network makes of a history, after each of its Q last tokens."""

    users: Tensor  # (B, Q, D) of length 1
    copies: Tensor  # (B, Q, T) what each token adds to the score of its own item


class Network(nn.Module):
    """
    A causal pre-norm Transformer.

    A score is the cosine of user and item, times a scale, and for an item of the history what
    `Copying` adds to it.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.items = Items(shape)
        self.type_set = nn.Linear(EVENT_TYPES, shape.dim, bias=False)
        self.last_type = nn.Embedding(EVENT_TYPES, shape.dim)
        self.gap = nn.Embedding(TIME_BUCKETS, shape.dim)
        self.dwell = nn.Embedding(TIME_BUCKETS, shape.dim)
        self.price = nn.Embedding(PRICE_BUCKETS, shape.dim)
        self.context = nn.ModuleList(nn.Embedding(1 << bits, shape.dim) for bits in CONTEXT_BITS)
        self.dropout = nn.Dropout(shape.embedding_dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=shape.dim**-0.5)
        with torch.no_grad():
            # The item first: what happened to it is at most a shade of it until that proves useful.
            sides = (self.type_set, self.last_type, self.gap, self.dwell, self.price, *self.context)
            for side in sides:
                side.weight.mul_(SHADE)
        self.items.begin()
        self.copying = Copying(shape) if shape.copy_heads else None

    def forward(self, tokens: tuple[Tensor, ...], last_only: bool = False) -> Reading:
        """
        Read a history.

        Args:
            tokens: The fields of `Tokens`, ``(B, T)`` int64 each.
            last_only: Compute only the newest position, all that serving needs.

        Returns:
            For Q = T tokens, or for Q = 1. Where a row is all padding its vector means nothing.
        """
        items, type_sets, last_types, gaps, dwells, price_buckets, contexts = tokens
        bits = (type_sets.unsqueeze(-1) >> torch.arange(EVENT_TYPES, device=items.device)) & 1
        x = self.items(items) + self.type_set(bits.to(self.type_set.weight.dtype))
        x = x + self.last_type(last_types) + self.gap(gaps) + self.dwell(dwells)
        x = x + self.price(price_buckets)
        for part, bits in zip(self.context, CONTEXT_BITS, strict=True):
            x = x + part(contexts & ((1 << bits) - 1))
            contexts = contexts >> bits
        x = inputs = self.dropout(x)  # (B, T, D)
        visible = _visible(items)
        for number, block in enumerate(self.blocks, start=1):
            last = last_only and number == len(self.blocks)
            x = block(x, block.bias(visible[:, :, -1:] if last else visible), last)
        x = self.norm(x)  # (B, Q, D)
        if self.copying is None:
            copies = x.new_zeros(*x.shape[:2], items.shape[1])
        else:
            copies = self.copying(x, inputs, items)
        return Reading(F.normalize(x, dim=-1), copies)

    def item_vectors(self) -> Tensor:
        """``(V, D)``, each of length 1; row i is item index i + 1."""
        device = self.items.delta.weight.device
        return self.vectors_of(torch.arange(1, self.shape.items + 1, device=device))

    def vectors_of(self, items: Tensor) -> Tensor:
        """``(..., D)``, each of length 1, of ``(...)`` 1-based item indices."""
        return F.normalize(self.items(items), dim=-1)

    def vectors_from_text(self, text: Tensor) -> Tensor:
        """``(N, D)``, each of length 1, of items that only ``(N, text_dim)`` texts are known of."""
        if self.items.projection is None:
            raise ValueError("this network was trained without text")
        return F.normalize(self.items.projection(text), dim=-1)

    def set_text(self, text_vectors: Tensor) -> None:
        """Give each item the vector of its text: ``(V, text_dim)``, 0 where there is none."""
        self.items.text_vectors[1:] = text_vectors

    @torch.no_grad()
    def folded(self) -> "Network":
        """The same scores without texts, which are added into the item table: for serving."""
        if self.items.projection is None:
            return self
        device = self.items.delta.weight.device
        everything = torch.arange(self.shape.items + 1, device=device)
        other = Network(replace(self.shape, text_dim=0)).to(device)
        kept = {n: v for n, v in self.state_dict().items() if not n.startswith("items.")}
        was_training = self.training
        table = self.eval().items(everything)
        self.train(was_training)
        other.load_state_dict({**kept, "items.delta.weight": table})
        return other.train(was_training)

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """``(..., V)`` scores of ``(..., D)`` users on ``(V, D)`` items, both of length 1."""
        return self.shape.logit_scale * users @ items.T


def add_copies(scores: Tensor, copies: Tensor, items: Tensor) -> Tensor:
    """*scores* ``(M, V)`` plus the *copies* ``(M, T)`` of the histories' *items* ``(M, T)``."""
    return scores.scatter_add(1, (items - 1).clamp(min=0), copies.to(scores.dtype))


class Items(nn.Module):
    """
    What an item is to the network: what was learnt of it, plus what its text says.

    Training drops what was learnt of some items, so that the text alone ranks an item that no one
    has touched yet. After DropoutNet (Volkovs et al., NeurIPS 2017).
    """

    BEGINNING = 0.2  # of the text's length: an item starts as its text, and little of its own

    text_vectors: Tensor  # (V + 1, text_dim) float16

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.delta = nn.Embedding(shape.items + 1, shape.dim, padding_idx=0)
        self.delta_dropout = shape.delta_dropout
        self.projection: nn.Linear | None = None
        if shape.text_dim:
            # No bias: an item without text gets nothing from here.
            self.projection = nn.Linear(shape.text_dim, shape.dim, bias=False)
            texts = torch.zeros(shape.items + 1, shape.text_dim, dtype=torch.float16)
            self.register_buffer("text_vectors", texts)

    def begin(self) -> None:
        """Bring the two parts to their first sizes."""
        with torch.no_grad():
            if self.projection is not None:
                self.delta.weight.mul_(self.BEGINNING)
            self.delta.weight[0] = 0

    def forward(self, items: Tensor) -> Tensor:
        """``(..., D)``, of any length, of ``(...)`` 1-based item indices."""
        delta = self.delta(items)
        if self.projection is None:
            return delta
        if self.training and self.delta_dropout:
            kept = torch.rand(*items.shape, 1, device=delta.device) >= self.delta_dropout
            delta = delta * kept
        return delta + self.projection(self.text_vectors[items].to(delta.dtype))


class Block(nn.Module):
    """
    Attention with a learned bias by distance, then a SwiGLU; each adds to what it read.

    How much is added, a gate decides that reads the same input: LiGR (Borisyuk et al., 2025).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before_attention = nn.LayerNorm(shape.dim)
        self.query = nn.Linear(shape.dim, shape.dim, bias=False)
        self.key_value = nn.Linear(shape.dim, 2 * shape.dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        self.attention_gate = nn.Linear(shape.dim, shape.dim, bias=False)
        # Distances, not positions: an answer must not depend on how far the row is padded.
        self.distance_bias = nn.Parameter(torch.zeros(shape.heads, shape.tokens))
        self.before_mlp = nn.LayerNorm(shape.dim)
        self.gate_up = nn.Linear(shape.dim, 4 * shape.dim, bias=False)
        self.down = nn.Linear(2 * shape.dim, shape.dim, bias=False)
        self.mlp_gate = nn.Linear(shape.dim, shape.dim, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, bias: Tensor, last_only: bool) -> Tensor:
        """``(B, T, D)`` to the same, or ``(B, 1, D)``; *bias* is ``(B, H, Q, T)``."""
        normed = asking = self.before_attention(x)
        if last_only:
            x, asking = x[:, -1:], normed[:, -1:]
        query = self._split(self.query(asking))  # (B, H, Q, D/H)
        key, value = (self._split(part) for part in self.key_value(normed).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        added = self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        x = torch.addcmul(x, added, torch.sigmoid(self.attention_gate(asking)))
        # Two products, not the halves of one: each is contiguous, and silu four times as fast.
        normed = self.before_mlp(x)
        gate, up = (F.linear(normed, weight) for weight in self.gate_up.weight.chunk(2))
        added = self.dropout(self.down(F.silu(gate) * up))
        return torch.addcmul(x, added, torch.sigmoid(self.mlp_gate(normed)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def bias(self, visible: Tensor) -> Tensor:
        """``(B, H, Q, T)`` added to the attention where *visible* ``(B, 1, Q, T)`` allows it."""
        distance = _distances(*visible.shape[2:], self.distance_bias.device)  # (Q, T)
        bias = self.distance_bias[:, distance].unsqueeze(0)
        return bias.masked_fill(~visible, float("-inf"))


class Copying(nn.Module):
    """
    Attention over the history whose weights go straight to the scores of the items in it.

    What a shopper comes back to, and what follows what they did before, is in their own history;
    a sum of value vectors blurs it. A head may also push an item down: the lines of an order come
    once each. Weights are sigmoids, not a softmax: what speaks for one item says nothing against
    the next. After the copy mode of CopyNet (Gu et al., ACL 2016) and RepeatNet (Ren et al.,
    AAAI 2019).
    """

    DIM = 32  # of a head
    GAIN = 4.0  # brings the gains to the scale of the scores
    QUIET = -1.0  # at first a token speaks up for its item more seldom than not

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.copy_heads
        self.norm = nn.LayerNorm(shape.dim)
        self.query = nn.Linear(shape.dim, self.heads * self.DIM, bias=False)
        # A token and the one before it: "what came after the item that I see now".
        self.key = nn.Linear(2 * shape.dim, self.heads * self.DIM, bias=False)
        self.distance_bias = nn.Parameter(torch.zeros(self.heads, shape.tokens))
        self.gain = nn.Linear(shape.dim, self.heads)
        nn.init.normal_(self.query.weight, std=shape.dim**-0.5)
        nn.init.normal_(self.key.weight, std=(2 * shape.dim) ** -0.5)
        nn.init.zeros_(self.gain.weight)
        with torch.no_grad():  # some heads push up from the start, some down
            self.gain.bias.copy_(torch.linspace(0.5, -0.25, self.heads))

    def forward(self, x: Tensor, inputs: Tensor, items: Tensor) -> Tensor:
        """``(B, Q, D)`` after the last block and ``(B, T, D)`` before the first: ``(B, Q, T)``."""
        # Nothing is before a first token, however far its row is padded.
        before = F.pad(inputs * (items != 0).unsqueeze(-1), (0, 0, 1, 0))[:, :-1]
        key = self._split(self.key(torch.cat([self.norm(inputs), before], dim=-1)))
        query = self._split(self.query(x))
        distance = _distances(query.shape[2], key.shape[2], x.device)  # (Q, T)
        logits = query @ key.transpose(-1, -2) / self.DIM**0.5 + self.distance_bias[:, distance]
        weights = torch.sigmoid(logits + self.QUIET)  # (B, H, Q, T)
        gains = self.GAIN * self.gain(x).transpose(1, 2).unsqueeze(-1)  # (B, H, Q, 1)
        seen = _causal(items)[:, -x.shape[1] :]
        return (weights * gains).sum(1).masked_fill(~seen, 0)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _distances(queries: int, keys: int, device: torch.device) -> Tensor:
    """``(Q, K)``: how far back each key lies from each of the last Q places; 0 for later ones."""
    at = torch.arange(keys, device=device)
    return (at[keys - queries :, None] - at[None, :]).clamp(min=0)


def _causal(items: Tensor) -> Tensor:
    """``(B, T, T)``: a token sees itself and what is before it, but no padding."""
    length = items.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
    return causal & (items != 0)[:, None, :]


def _visible(items: Tensor) -> Tensor:
    """``(B, 1, T, T)``: as `_causal`, and each token sees itself, or NaN would come of padding."""
    itself = torch.eye(items.shape[1], dtype=torch.bool, device=items.device)
    return (_causal(items) | itself).unsqueeze(1)
