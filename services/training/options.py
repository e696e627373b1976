"""Every choice of a training run, saved in the version's manifest."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingOptions:
    """Defaults train a shop's few hundred thousand events on two cores in a few minutes."""

    epochs: int = 10
    least_steps: int = 1000  # a small log is passed more often, or it would teach nothing
    seed: int = 1
    dim: int = 64
    layers: int = 2
    heads: int = 2
    tokens: int = 50  # runs of one item that the network looks back on
    copy_heads: int = 4  # that raise or lower items of the history itself; 0 where none repeat
    history_length: int = 100  # events asked of the worker: they merge into the tokens
    k: int = 200
    dropout: float = 0.1
    embedding_dropout: float = 0.1
    delta_dropout: float = 0.1  # share of items seen as their text alone, where there is text
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    tokens_a_batch: int = 256
    full_softmax_below: int = 4096  # items; a larger catalogue is sampled
    negatives: int = 4096
    in_batch_negatives: bool = False  # the batch's targets as well: for a very large catalogue
    cart_weight: float = 1.0  # of a target, beside a view or a click
    checkout_weight: float = 0.2  # follows from an order, not from what was on the page
    purchase_weight: float = 1.0
    next_visit_weight: float = 0.3  # of a target that comes more than 30 minutes later
    half_life_days: float = 45.0
    popularity_half_life_days: float = 7.0
    final_epochs: int = 2  # on everything, once the held-out part has been judged
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, for GPUs
    patience: int = 0  # epochs without a better held-out NDCG@10 before it stops; 0: never
    threads: int = 1  # with steps this small a second one mostly waits

    @classmethod
    def small_data(cls) -> "TrainingOptions":
        """For a few hundred thousand actions on ten thousand items, few of each: see model.md."""
        return cls(
            epochs=14,
            dim=128,
            copy_heads=0,  # nobody comes back to an item
            dropout=0.25,
            embedding_dropout=0.3,
            learning_rate=6e-3,
            tokens_a_batch=2000,
            precision="bf16",
        )
