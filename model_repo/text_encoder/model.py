"""Triton adapter of MiniLM: texts in, vectors out."""

from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from .minilm import MiniLM


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args):
        """Load the weights that lie beside this file; refuse a numpy that Triton cannot read."""
        if int(np.__version__.split(".")[0]) >= 2:
            # Triton's stub would turn every answer into empty tensors, without an error.
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: it must be below 2")
        torch.set_num_threads(1)
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        self.model = MiniLM.load(Path(__file__).parent, device=device)

    def execute(self, requests):
        """Answer each request in order, with one pass over all their texts."""
        texts = [
            [
                text.decode()
                for text in pb_utils.get_input_tensor_by_name(one, "text").as_numpy()[:, 0]
            ]
            for one in requests
        ]
        vectors = self.model.encode([text for some in texts for text in some])
        ends = np.cumsum([len(some) for some in texts])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("text_vector", part)])
            for part in np.split(vectors, ends)
        ]
