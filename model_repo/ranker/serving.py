"""One released version: item keys in, the best items of the whole catalogue out."""

import json
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from .network import Network, Shape, last_tokens, merge_runs


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
        self.network = network.eval()
        with torch.inference_mode():
            self.item_vectors = network.item_vectors()
        self.popular = np.argsort(-popularity, kind="stable")[: self.k]  # (K,)

    @classmethod
    def load(cls, directory: Path, k: int | None = None, device: str = "cpu") -> "Version":
        """Read a version directory; *k* is its manifest's unless given."""
        k = k or json.loads((directory / "manifest.json").read_text())["k"]
        config = json.loads((directory / "config.json").read_text())
        network = Network(Shape(**{field.name: config[field.name] for field in fields(Shape)}))
        weights = load_tensors(directory / "model.safetensors", device=device)
        network.load_state_dict({name.removeprefix("network."): w for name, w in weights.items()})
        items = load_file(directory / "items.safetensors")
        return cls(network.to(device), items["item_keys"], items["popularity"], k)

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
        users, best, scores = self._score(
            last_tokens(tokens, token_rows, batch, self.network.shape.tokens)
        )
        nobody = np.bincount(token_rows, minlength=batch) == 0  # (B,)
        best[nobody], scores[nobody] = self.popular, self.popularity[self.popular]
        users[nobody] = 0
        return Answer(self.item_keys[best], scores, users)

    def _score(self, padded: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        device = self.item_vectors.device
        tensors = tuple(torch.from_numpy(values).to(device) for values in padded)
        users = self.network(tensors, last_only=True)[:, -1]  # (B, D)
        scores, best = self.network.scores(users, self.item_vectors).topk(self.k)  # (B, K)
        return (
            users.float().cpu().numpy(),
            best.cpu().numpy(),
            scores.float().cpu().numpy(),
        )
