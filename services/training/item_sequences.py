"""Plain sequences of items, as academic benchmarks give them: training on them, and scoring."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.tokens import Tokens, last_tokens, merge_runs
from services.training.examples import Sequences, examples
from services.training.memory import keep_freed_memory
from services.training.options import TrainingOptions
from services.training.trainer import Progress, fit, new_network
from stream.event_types import EventType

ItemSequence = NDArray[np.int64]  # (T,) 1-based item indices, oldest first


def train_on_sequences(
    sequences: Sequence[ItemSequence],
    items: int,
    options: TrainingOptions,
    *,
    text_vectors: NDArray[np.float32] | None = None,
    progress: Progress = lambda share: None,
) -> Network:
    """
    A network that learnt to predict each item of each sequence but the first.

    Args:
        sequences: One a user.
        items: The size of the catalogue; some of it may be in no sequence.
        text_vectors: ``(items, text_dim)`` of length 1, 0 where there is no text.
    """
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    network = new_network(items, options, text_vectors)
    tokens, rows = _tokens(sequences)
    found = Sequences(
        tokens,
        rows,
        first_types=tokens.last_types,
        times_ms=np.zeros(len(rows), np.int64),
        fresh=np.ones(len(rows), bool),
    )
    fit(network, [examples(found, options)], options, epochs=options.epochs, progress=progress)
    return network


@torch.inference_mode()
def user_vectors(network: Network, sequences: Sequence[ItemSequence]) -> NDArray[np.float32]:
    """
    ``(B, D)`` of length 1, after the last item of each sequence.

    Times the network's logit scale and `Network.item_vectors`, they are the items' scores; for
    thousands of users call it in blocks, with a network that is `Network.folded`.
    """
    tokens, rows = _tokens(sequences)
    longest = int(np.bincount(rows).max().clip(max=network.shape.tokens))
    block = last_tokens(tokens, rows, len(sequences), longest)
    reading = network(tuple(torch.from_numpy(values) for values in block), last_only=True)
    vectors: NDArray[np.float32] = reading.users[:, -1].numpy()
    return vectors


def _tokens(sequences: Sequence[ItemSequence]) -> tuple[Tokens, NDArray[np.int64]]:
    """All in one row after another, and the row of each: no types that differ, no times."""
    rows = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    nothing = np.zeros(len(rows), np.int64)
    tokens, token_rows, _ = merge_runs(
        rows=rows,
        items=np.concatenate(sequences),
        types=np.full(len(rows), int(EventType.VIEW)),
        times_s=nothing.astype(np.float64),
        price_buckets=nothing,
        contexts=nothing,
    )
    return tokens, token_rows
