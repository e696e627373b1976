"""Triton adapter of a version's item tower. No modelling here."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from .tower import ItemTower


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args):
        """Load what lies beside this file; refuse a numpy that Triton cannot read."""
        if int(np.__version__.split(".")[0]) >= 2:
            # Triton's stub would turn every answer into empty tensors, without an error.
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: it must be below 2")
        self.tower = ItemTower.load(Path(__file__).parent)

    def execute(self, requests):
        """Answer each request apart: they are few."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        keys = pb_utils.get_input_tensor_by_name(request, "item_key").as_numpy()  # (B, 1)
        outputs = [pb_utils.Tensor("is_known", self.tower.knows(keys))]
        text = pb_utils.get_input_tensor_by_name(request, "text_vector")
        if text is not None:
            outputs.append(pb_utils.Tensor("item_vector", self.tower.vectors(text.as_numpy())))
        return pb_utils.InferenceResponse(outputs)
