"""The network as a `transformers.PreTrainedModel`: how training saves it and anyone loads it."""

from dataclasses import asdict, fields

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from .network import Network, Reading, Shape


class RankerConfig(PretrainedConfig):
    """The fields of `Shape`, under their own names."""

    model_type = "headrace_ranker"

    def __init__(self, **options: object) -> None:
        # The parent's constructor may be called without arguments, so each field has a default.
        for name, value in asdict(Shape(items=1)).items():
            setattr(self, name, options.pop(name, value))
        super().__init__(**options)

    def shape(self) -> Shape:
        """The numbers that make the network."""
        return Shape(**{field.name: getattr(self, field.name) for field in fields(Shape)})


class RankerModel(PreTrainedModel):
    """``RankerModel.from_pretrained(version_dir)`` gives a released version back."""

    config_class = RankerConfig
    base_model_prefix = "network"

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(config)
        self.network = Network(config.shape())
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: the network initialises itself."""

    def forward(self, tokens: tuple[Tensor, ...], last_only: bool = False) -> Reading:
        """See `Network.forward`."""
        reading: Reading = self.network(tokens, last_only)
        return reading
