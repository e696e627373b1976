"""What Triton's Python backend asks of the adapter, without Triton."""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

from model_repo.ranker import serving
from model_repo.ranker.serving import Version, fastest
from stream.keys import item_key
from tests.tiny_model import build_tiny_version, clicks_on

ITEM_IDS = [f"item-{number}" for number in range(30)]
KEYS = np.array([item_key(one) for one in ITEM_IDS], np.int64)
INPUTS = ("item_keys", "event_types", "ages_s", "price_buckets", "context")
ARGS = {
    "model_config": "{}",
    "model_instance_kind": "CPU",
    "model_name": "ranker",
    "model_version": "1",
}


@dataclass
class Tensor:
    """`pb_utils.Tensor`."""

    name: str
    values: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.values


@dataclass
class Response:
    """`pb_utils.InferenceResponse`."""

    tensors: list[Tensor]

    def __getitem__(self, name: str) -> np.ndarray:
        (found,) = [tensor.values for tensor in self.tensors if tensor.name == name]
        return found


@dataclass
class Log:
    """`pb_utils.Logger`."""

    lines: list[str] = field(default_factory=list)

    def log_info(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("versions") / "1", ITEM_IDS)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def model(directory: Path, log: Log, monkeypatch: pytest.MonkeyPatch):
    """The adapter, initialised as Triton would."""
    pb_utils = ModuleType("triton_python_backend_utils")
    pb_utils.Tensor, pb_utils.InferenceResponse, pb_utils.Logger = Tensor, Response, log
    pb_utils.TritonModelException = RuntimeError
    pb_utils.get_input_tensor_by_name = lambda request, name: next(
        (tensor for tensor in request if tensor.name == name), None
    )
    monkeypatch.setitem(sys.modules, pb_utils.__name__, pb_utils)
    module = reload(import_module("model_repo.ranker.model"))
    monkeypatch.setattr(module, "__file__", str(directory / "model.py"))
    monkeypatch.setattr(np, "__version__", "1.26.4")
    model = module.TritonPythonModel()
    model.initialize(ARGS)
    return model


def a_request(*histories: list[int], length: int, optional: bool = True) -> list[Tensor]:
    values = clicks_on(*histories, length=length)
    sent = INPUTS if optional else INPUTS[:3]
    return [Tensor(name, one) for name, one in zip(sent, values, strict=False)]


def test_each_request_gets_its_own_answer(model):
    """Triton hands over what several workers asked, of different sizes and lengths."""
    requests = [
        a_request(list(KEYS[3:6]), [], length=20),
        a_request(list(KEYS[7:9]), length=5),
        a_request(list(KEYS[:9]), list(KEYS[4:5]), [item_key("unknown")], length=9),
    ]

    together = model.execute(requests)

    assert [len(answer["item_keys"]) for answer in together] == [2, 1, 3]
    for request, answer in zip(requests, together, strict=True):
        (alone,) = model.execute([request])
        np.testing.assert_allclose(answer["scores"], alone["scores"], rtol=0.02, atol=0.1)
        np.testing.assert_allclose(answer["user_vector"], alone["user_vector"], atol=0.02)


def test_what_is_optional_may_be_left_out(model):
    """Workers of a version ago, and other people's clients, do not send it."""
    (full,) = model.execute([a_request(list(KEYS[3:6]), length=9)])
    (bare,) = model.execute([a_request(list(KEYS[3:6]), length=9, optional=False)])

    np.testing.assert_array_equal(full["item_keys"], bare["item_keys"])
    np.testing.assert_array_equal(full["scores"], bare["scores"])


def test_the_outputs_are_what_the_configuration_promises(model, directory: Path):
    """Triton passes on whatever it is given, of any type and shape."""
    (answer,) = model.execute([a_request(list(KEYS[3:6]), [], length=9)])

    k = json.loads((directory / "manifest.json").read_text())["k"]
    assert answer["item_keys"].shape == answer["scores"].shape == (2, k)
    assert answer["item_keys"].dtype == np.int64
    assert answer["scores"].dtype == answer["user_vector"].dtype == np.float32


def test_numpy_2_is_refused(model, monkeypatch: pytest.MonkeyPatch):
    """With it every answer would be empty, and nobody would say why."""
    monkeypatch.setattr(np, "__version__", "2.1.0")

    with pytest.raises(RuntimeError, match="must be below 2"):
        model.initialize(ARGS)


def test_bf16_serves_where_the_slates_are_the_same(directory: Path, monkeypatch):
    """It is up to three times as fast, on the processors that have it."""
    monkeypatch.setattr(serving, "_has_bf16", lambda device: True)
    plain = Version.load(directory)

    short, why = fastest(plain)

    assert short is not plain
    assert why.startswith("bf16")
    inputs = serving.sampled_inputs(plain)
    one, other = plain.rank(*inputs), short.rank(*inputs)
    assert serving.overlap(one, other) > 0.95
    assert ((one.user_vectors * other.user_vectors).sum(axis=1) > 0.999).all()


def test_float32_serves_where_bf16_gives_other_slates(directory: Path, monkeypatch):
    """Faster is no use if it is something else; the log says why."""
    monkeypatch.setattr(serving, "_has_bf16", lambda device: True)
    monkeypatch.setattr(serving, "overlap", lambda one, other: 0.9)
    plain = Version.load(directory)

    version, why = fastest(plain)

    inputs = serving.sampled_inputs(plain)
    np.testing.assert_array_equal(version.rank(*inputs).scores, plain.rank(*inputs).scores)
    assert why == "float32: slates in bf16 share only 90.0% of their items with it"


def test_a_score_that_is_no_number_counts_as_nothing_shared(directory: Path):
    """NaN sorts first, and would look like agreement."""
    answer = Version.load(directory).rank(*serving.sampled_inputs(Version.load(directory)))
    broken = answer._replace(scores=np.full_like(answer.scores, np.nan))

    assert serving.overlap(answer, answer) == 1.0
    assert serving.overlap(answer, broken) == 0.0


def test_the_log_says_what_it_computes_in(model, log: Log):
    """Whoever wonders why one machine is slower reads it there."""
    assert log.lines[0].startswith("ranker 1 computes in ")


@pytest.mark.parametrize(("age_s", "niceness"), [(5.0, []), (3600.0, [15])])
def test_a_load_is_at_leisure_only_where_others_serve(
    model, monkeypatch: pytest.MonkeyPatch, age_s: float, niceness: list[int]
):
    """A server that has just been restarted serves nobody: each second of its load is an outage."""
    module = sys.modules["model_repo.ranker.model"]
    taken: list[int] = []
    monkeypatch.setattr(module, "_age_s", lambda pid: age_s)
    monkeypatch.setattr(module.os, "setpriority", lambda which, who, nice: taken.append(nice))

    model.initialize(ARGS)

    assert taken == niceness


@pytest.mark.parametrize(("ago_s", "niceness"), [(1.0, []), (3600.0, [15])])
def test_a_model_that_heals_is_loaded_at_full_priority(
    model, monkeypatch: pytest.MonkeyPatch, ago_s: float, niceness: list[int]
):
    """Its processes had died, so nobody serves; the mark stays for later loads, with its time."""
    module = sys.modules["model_repo.ranker.model"]
    taken: list[int] = []
    monkeypatch.setattr(module, "_age_s", lambda pid: 3600.0)
    monkeypatch.setattr(module.os, "setpriority", lambda which, who, nice: taken.append(nice))
    config = json.loads(ARGS["model_config"])
    told_ns = time.time_ns() - int(ago_s * 1e9)
    config["parameters"] = {"loaded_again_at_ns": {"string_value": str(told_ns)}}

    model.initialize({**ARGS, "model_config": json.dumps(config)})

    assert taken == niceness


def test_the_age_of_a_process_is_read_from_the_kernel(model):
    """Fields are counted after the program's name, which may hold spaces and brackets."""
    module = sys.modules["model_repo.ranker.model"]

    assert module._age_s(os.getpid()) == pytest.approx(
        time.time() - psutil.Process().create_time(), abs=2.0
    )
