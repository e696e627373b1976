"""What Triton runs: tensors in, the chain's answer out."""

import json
from pathlib import Path

import triton_python_backend_utils as pb_utils

from .markov import Markov


class TritonPythonModel:
    """The class and the method names are Triton's."""

    def initialize(self, args):
        """Load the files that lie beside this one."""
        directory = Path(__file__).parent
        self.k = json.loads((directory / "manifest.json").read_text())["k"]
        self.markov = Markov.load(directory)

    def execute(self, requests):
        """Answer each request; one request is one micro-batch of a worker."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        keys = pb_utils.get_input_tensor_by_name(request, "item_keys").as_numpy()
        best, scores = self.markov.rank(keys, self.k)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("item_keys", best), pb_utils.Tensor("scores", scores)]
        )
