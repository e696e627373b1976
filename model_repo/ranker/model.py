"""Triton adapter: join the requests, rank once, split the answers. No modelling here."""

import gc
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

REQUIRED = ("item_keys", "event_types", "ages_s")
OPTIONAL = ("price_buckets", "context")  # int32, 0 is unknown
OUTPUTS = ("item_keys", "scores", "user_vector")
LEISURE = 15  # niceness of a load beside versions that serve
NEW_SERVER_S = 60.0
HEALING_S = 10.0  # from being told to load again to the start of the process that does


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args):
        """Load the version that lies beside this file; refuse a numpy that Triton cannot read."""
        if int(np.__version__.split(".")[0]) >= 2:
            # Triton's stub would turn every answer into empty tensors, without an error.
            raise pb_utils.TritonModelException(f"numpy {np.__version__}: it must be below 2")
        config = json.loads(args["model_config"])
        _load_in_thread(lambda: self._load(args, config), at_leisure=_others_serve(config))
        gc.freeze()  # or the collector goes through all of torch's objects again and again

    def _load(self, args, config):
        import torch  # seconds of work, not to be done at the top of the file

        from .serving import Version, fastest

        torch.set_num_threads(int(_parameter(config, "threads", "1")))
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        self.version, why = fastest(Version.load(Path(__file__).parent, device=device))
        self.version.warm_up(config.get("max_batch_size", 1))
        pb_utils.Logger.log_info(f"{args['model_name']} {args['model_version']} computes in {why}")

    def execute(self, requests):
        """Answer each request in order, with one forward pass over all of them."""
        inputs = [_read(request) for request in requests]
        answer = self.version.rank(*_joined(inputs))
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, values) for name, values in zip(OUTPUTS, part, strict=True)]
            )
            for part in _parts(answer, [len(keys) for keys, *_ in inputs])
        ]


def _others_serve(config):
    """
    Whether other versions serve while this one is loaded, for all that can be told from here.

    Not where the server has just started, nor where all of the model is loaded again because its
    processes had died (`services.models.control`): then each second of the load is an outage.
    """
    loaded_again_ns = int(_parameter(config, "loaded_again_at_ns", "0"))
    is_healing = time.time_ns() - loaded_again_ns < HEALING_S * 1e9
    return not is_healing and _age_s(os.getppid()) > NEW_SERVER_S


def _load_in_thread(work, *, at_leisure):
    """
    Do *work* in a thread, of low priority if *at_leisure*, and wait for it.

    A thread, because Linux counts niceness by thread, and nobody but root may take it back.
    """
    failures = []

    def run():
        if at_leisure:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEISURE)
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _age_s(pid):
    """Seconds since process *pid* started: fields of ``/proc``, see proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after the boot
    return float(Path("/proc/uptime").read_text().split()[0]) - started_s


def _read(request):
    required = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in REQUIRED]
    optional = [pb_utils.get_input_tensor_by_name(request, name) for name in OPTIONAL]
    unknown = np.zeros(required[0].shape, np.int32)
    return required + [unknown if one is None else one.as_numpy() for one in optional]


def _joined(inputs):
    """The inputs of several requests as those of one."""
    if len(inputs) == 1:  # a micro-batch is one request, and rarely meets another's
        return inputs[0]
    length = max(keys.shape[1] for keys, *_ in inputs)
    return [
        np.concatenate([_widen(values, length) for values in each])
        for each in zip(*inputs, strict=True)
    ]


def _parts(answer, sizes):
    """The answers of requests of so many users."""
    if len(sizes) == 1:
        return [answer]
    ends = np.cumsum(sizes)[:-1]
    return zip(*(np.split(values, ends) for values in answer), strict=True)


def _widen(values, length):
    """Pad ``(b, l)`` on the left to ``(b, length)``: requests may differ in length."""
    if values.shape[1] == length:
        return values
    return np.pad(values, ((0, 0), (length - values.shape[1], 0)))


def _parameter(config, name, default):
    return config.get("parameters", {}).get(name, {}).get("string_value", default)
