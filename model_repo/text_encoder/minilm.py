"""
MiniLM: text in, a vector of length 1 out.

The published weights (sentence-transformers/all-MiniLM-L6-v2) in some sixty lines of plain torch:
importing `transformers` takes ten seconds, which a model server would wait for at every load.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

DIM = 384
MOST_TOKENS = 128  # what the weights were trained with; the rest of a text is not read
TOKENS_A_BATCH = 4096  # padding included: keeps activations within a few dozen MB


class MiniLM:
    """BERT's encoder, the mean of its tokens, brought to length 1."""

    def __init__(
        self, weights: dict[str, Tensor], tokenizer: Tokenizer, *, layers: int, heads: int
    ) -> None:
        """*weights* under their published names; their type is what is computed in."""
        self._weights = weights
        self._layers = layers
        self._heads = heads
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_TOKENS)

    @classmethod
    def load(cls, directory: Path, device: str = "cpu") -> "MiniLM":
        """Read the published files; computes in bf16 where the processor has it."""
        config = json.loads((directory / "config.json").read_text())
        weights = load_file(directory / "model.safetensors", device=device)
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        return cls(
            {name: tensor.to(dtype) for name, tensor in weights.items() if "." in name},
            Tokenizer.from_file(str(directory / "tokenizer.json")),
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
        )

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], advanced: Callable[[int], None] = lambda texts: None
    ) -> np.ndarray:
        """
        Vectors ``(N, 384)`` float32 of length 1.

        Args:
            advanced: Called with how many more texts are done.
        """
        vectors = np.empty((len(texts), DIM), np.float32)
        tokens = [one.ids for one in self._tokenizer.encode_batch(list(texts))]
        for places in _batches([len(ids) for ids in tokens]):
            vectors[places] = self._encode([tokens[place] for place in places]).numpy()
            advanced(len(places))
        return vectors

    def _encode(self, tokens: Sequence[list[int]]) -> Tensor:
        longest = max(len(ids) for ids in tokens)
        padded = torch.zeros(len(tokens), longest, dtype=torch.int64)
        real = torch.zeros(len(tokens), longest, dtype=torch.bool)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = torch.tensor(ids)
            real[row, : len(ids)] = True
        device = self._weights["embeddings.LayerNorm.weight"].device
        padded, real = padded.to(device), real.to(device)
        x = self._embedded(padded)  # (B, T, D)
        for number in range(self._layers):
            x = self._layer(f"encoder.layer.{number}", x, real)
        weight = real.unsqueeze(-1).float()
        mean = (x.float() * weight).sum(dim=1) / weight.sum(dim=1)  # (B, D)
        return F.normalize(mean, dim=-1).cpu()

    def _embedded(self, tokens: Tensor) -> Tensor:
        words = F.embedding(tokens, self._weights["embeddings.word_embeddings.weight"])
        positions = self._weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + positions + segment)

    def _layer(self, name: str, x: Tensor, real: Tensor) -> Tensor:
        query, key, value = (
            self._linear(f"{name}.attention.self.{part}", x)
            .unflatten(-1, (self._heads, -1))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )  # (B, H, T, D/H)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        mixed = self._linear(f"{name}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        x = self._norm(f"{name}.attention.output.LayerNorm", x + mixed)
        inner = F.gelu(self._linear(f"{name}.intermediate.dense", x))
        return self._norm(
            f"{name}.output.LayerNorm", x + self._linear(f"{name}.output.dense", inner)
        )

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, (DIM,), weight, bias, eps=1e-12)


def has_bf16(device: str) -> bool:
    """Whether *device* multiplies bf16 natively: elsewhere it would only be slower."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts of like length, so that little of a batch is padding."""
    batch: list[int] = []
    for place in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[place] > TOKENS_A_BATCH:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
