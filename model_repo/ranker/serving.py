"""One released version: item keys in, the best items of the whole catalogue out."""

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from .folded import Folded, Inputs, Reader, inputs_of, traced
from .graphs import Graphs
from .network import Network, Shape
from .tokens import EVENT_TYPES, Tokens, last_tokens, merge_runs
from .top_k import best_items

AT_ONCE = 64  # users whose histories the network reads together: more leave the core's cache
LEAST_IN_BF16 = 64  # users: for fewer the casts take longer than bf16 saves
SAMPLED_ROWS = 64
COMPARED_RANKS = 20  # a slate
LEAST_OVERLAP = 0.95  # of slates in bf16 with the same in float32


class Answer(NamedTuple):
    """The best items of each user, best first."""

    item_keys: np.ndarray  # (B, K) int64
    scores: np.ndarray  # (B, K) float32
    user_vectors: np.ndarray  # (B, D) float32, of length 1; 0 for a user without history


class Version:
    """The weights, item keys and popularity in one version directory, ready to rank."""

    def __init__(
        self, network: Network, item_keys: np.ndarray, popularity: np.ndarray, k: int
    ) -> None:
        """*item_keys* ``(V,)`` ascend and belong to item indices 1 to V, as *popularity* does."""
        self.item_keys = item_keys
        self.popularity = popularity
        self.k = min(k, len(item_keys))
        self.network = network.folded().eval()
        with torch.inference_mode():
            # Scored in float32 whatever the network computes in: in bf16 neighbours would tie.
            self.item_vectors = self.network.item_vectors().float().contiguous()  # (V, D)
        self.popular = np.argsort(-popularity, kind="stable")[: self.k]  # (K,)
        self._exact: Reader = Folded(self.network)
        self._fast = self._exact
        self._set_up()

    def _set_up(self) -> None:
        # A graph has one shape; a processor is spared the padding.
        self._graphs = Graphs(self._scored_whole) if self.item_vectors.is_cuda else None

    @classmethod
    def load(cls, directory: Path, k: int | None = None, device: str = "cpu") -> "Version":
        """Read a version directory, to compute in float32; *k* is its manifest's unless given."""
        k = k or json.loads((directory / "manifest.json").read_text())["k"]
        config = json.loads((directory / "config.json").read_text())
        network = Network(Shape(**{field.name: config[field.name] for field in fields(Shape)}))
        weights = load_tensors(directory / "model.safetensors", device=device)
        network.load_state_dict({name.removeprefix("network."): w for name, w in weights.items()})
        items = load_file(directory / "items.safetensors")
        return cls(network.to(device), items["item_keys"], items["popularity"], k)

    def in_bf16(self) -> "Version":
        """The same version, which reads large batches in bf16; the item table is shared."""
        other = copy.copy(self)
        other._fast = Folded(self.network, torch.bfloat16)
        other._set_up()
        return other

    @torch.inference_mode()
    def traced(self) -> "Version":
        """The same version, which reads histories without Python. A GPU has its graphs for that."""
        sample = np.ones((2, self.network.shape.tokens), np.int64)
        inputs = inputs_of(Tokens(*[sample] * len(Tokens._fields)))
        other = copy.copy(self)
        other._exact = traced(self._exact, inputs)
        other._fast = other._exact if self._fast is self._exact else traced(self._fast, inputs)
        return other

    def warm_up(self, most: int) -> None:
        """
        Rank up to *most* users at once, before anybody waits for it.

        A first call compiles, and on a GPU records the graph of each size that requests can have.
        """
        sizes = (1, 1, SAMPLED_ROWS)  # a trace is compiled at its second call
        if self._graphs:
            sizes = tuple(1 << power for power in range((most - 1).bit_length() + 1))
        inputs = [np.resize(one, (sizes[-1], one.shape[1])) for one in sampled_inputs(self)]
        for size in sizes:
            self.rank(*(one[:size] for one in inputs))

    @torch.inference_mode()
    def rank(
        self,
        item_keys: np.ndarray,
        types: np.ndarray,
        ages_s: np.ndarray,
        price_buckets: np.ndarray,
        context: np.ndarray,
    ) -> Answer:
        """
        Rank the whole catalogue for each user.

        Items that this version does not know are left out of the history. Who has no history
        left gets the popular items, with their popularity as the score.

        Args:
            item_keys, types, ages_s, price_buckets, context: ``(B, L)``, newest last; key 0 is
                padding.
        """
        batch = len(item_keys)
        places = np.searchsorted(self.item_keys, item_keys).clip(max=len(self.item_keys) - 1)
        rows, columns = np.nonzero((self.item_keys[places] == item_keys) & (item_keys != 0))
        tokens, token_rows, _ = merge_runs(
            rows,
            places[rows, columns] + 1,
            types[rows, columns],
            -ages_s[rows, columns].astype(np.float64),
            price_buckets[rows, columns],
            context[rows, columns],
        )
        used = np.bincount(token_rows, minlength=batch).clip(max=self.network.shape.tokens)  # (B,)
        length = self.network.shape.tokens if self._graphs else max(int(used.max()), 1)
        users, scores, best = self._best(last_tokens(tokens, token_rows, batch, length), used)
        nobody = used == 0
        best[nobody], scores[nobody] = self.popular, self.popularity[self.popular]
        users[nobody] = 0
        return Answer(self.item_keys[best], scores, users)

    def _best(self, tokens: Tokens, used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User vectors ``(B, D)``, and scores and places of their best items ``(B, K)``."""
        if self._graphs is None:
            users, copies = self._read(tokens, used)
            found = self._scored(users, copies, torch.from_numpy(tokens.items))
        else:
            found = self._graphs(tuple(one.cuda() for one in inputs_of(tokens)))
        users, scores, best = (one.cpu().numpy() for one in found)
        return users, scores, best

    def _read(self, tokens: Tokens, used: np.ndarray) -> tuple[Tensor, Tensor]:
        """User vectors ``(B, D)`` and copies ``(B, T)``: of like lengths together, and a few."""
        batch, length = tokens.items.shape
        network = self._exact if batch < LEAST_IN_BF16 else self._fast
        if batch <= AT_ONCE:
            return network(inputs_of(tokens))
        users = torch.empty(batch, self.item_vectors.shape[1])
        copies = torch.zeros(batch, length)
        for rows in np.array_split(np.argsort(used, kind="stable"), -(-batch // AT_ONCE)):
            first = length - max(int(used[rows[-1]]), 1)
            some = Tokens(*(values[rows, first:] for values in tokens))
            users[rows], copies[rows, first:] = network(inputs_of(some))
        return users, copies

    def _scored_whole(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        sides, items = inputs
        return self._scored(*self._fast(Inputs(sides, items)), items)

    def _scored(
        self, users: Tensor, copies: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = self.network.shape.logit_scale
        added = (items - 1, copies / scale)
        scores, best = best_items(users, self.item_vectors, self.k, added)
        return users, scores * scale, best


def fastest(version: Version) -> tuple[Version, str]:
    """
    *version* as it serves: traced on a processor, in bf16 where that gives the same slates.

    Returns:
        That, and what it computes in and why, in words.
    """
    chosen, why = _in_bf16_if_same(version)
    return (chosen if version.item_vectors.is_cuda else chosen.traced()), why


def _in_bf16_if_same(version: Version) -> tuple[Version, str]:
    if not _has_bf16(version.item_vectors.device):
        return version, "float32: the processor has no bf16"
    short, inputs = version.in_bf16(), sampled_inputs(version)
    same = overlap(version.rank(*inputs), short.rank(*inputs))
    if same < LEAST_OVERLAP:
        return version, f"float32: slates in bf16 share only {same:.1%} of their items with it"
    return short, (
        f"bf16 from {LEAST_IN_BF16} users on: slates share {same:.1%} of their items with float32"
    )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def sampled_inputs(version: Version, seed: int = 0) -> tuple[np.ndarray, ...]:
    """What `Version.rank` takes: histories of every length over the version's own items."""
    rng = np.random.default_rng(seed)
    shape = (SAMPLED_ROWS, version.network.shape.tokens)
    keys = rng.choice(version.item_keys, shape)
    keys[np.arange(shape[1]) < rng.integers(0, shape[1], (SAMPLED_ROWS, 1))] = 0
    ages_s = np.sort(rng.exponential(3600, shape), axis=1)[:, ::-1].astype(np.float32)
    types = rng.integers(1, EVENT_TYPES, shape).astype(np.int32)
    unknown = np.zeros(shape, np.int32)
    return keys, types, ages_s, unknown, unknown


def overlap(one: Answer, other: Answer) -> float:
    """The share of the first ranks' items that both have; 0 if a score is no number."""
    if not (np.isfinite(one.scores).all() and np.isfinite(other.scores).all()):
        return 0.0
    pairs = zip(one.item_keys[:, :COMPARED_RANKS], other.item_keys[:, :COMPARED_RANKS], strict=True)
    return float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in pairs]))
