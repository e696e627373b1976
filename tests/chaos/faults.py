"""
What is done to a running stack: one function a kind of fault, which returns when the fault is over.

Recovery is measured from there on: from the moment of a kill, from the end of a pause.
"""

import contextlib
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from stream import topics
from tests.chaos.generator import POISON, Generator
from tests.chaos.stack import ChaosStack, paused, until

SESSION_TIMEOUT_S = 5.0
PAUSE_S = SESSION_TIMEOUT_S + 3.0  # a worker's partitions have gone to another by then
SERVER_PAUSE_S = 7.0  # past every client's own timeout
SHORT_S = 4.0
MODEL_PAUSE_S = 0.4
DISK_ROOM_BYTES = 4_096


@dataclass
class Scene:
    """What a fault may touch. `say` prints whom it hits, when it does."""

    stack: ChaosStack
    generator: Generator
    random: random.Random
    say: Callable[[str], None]

    def any_worker(self) -> str:
        """One of the supervised workers."""
        return self.random.choice(self.stack.workers)


Fault = Callable[[Scene], None]


def worker_killed(scene: Scene) -> None:
    """SIGKILL; it comes back as the same static member."""
    _kill(scene, scene.any_worker())


def worker_paused(scene: Scene) -> None:
    """SIGSTOP past its session timeout: it wakes when others have its partitions."""
    _pause(scene, scene.any_worker(), PAUSE_S)


def workers_restarted(scene: Scene) -> None:
    """SIGTERM to each worker in turn: a deploy."""
    for name in scene.stack.workers:
        scene.say(f"SIGTERM {name}")
        scene.stack.terminate(name)
        time.sleep(1.0)


def worker_joins(scene: Scene) -> None:
    """One more worker: a rebalance under load."""
    scene.say(scene.stack.join_worker())


def worker_leaves(scene: Scene) -> None:
    """One worker fewer: the joined one, or one that joins for this."""
    left = scene.stack.part_worker()
    if left is None:
        scene.say(f"{scene.stack.join_worker()} joins first")
        left = scene.stack.part_worker()
    scene.say(f"SIGTERM {left or 'nobody: it has died already'}")


def kafka_killed(scene: Scene) -> None:
    """SIGKILL to the only broker."""
    _kill(scene, "kafka")


def kafka_paused(scene: Scene) -> None:
    """SIGSTOP: connections stay open and nothing answers."""
    _pause(scene, "kafka", SERVER_PAUSE_S)


def redis_killed(scene: Scene) -> None:
    """SIGKILL; its log is synced at every write."""
    _kill(scene, "redis")


def redis_paused(scene: Scene) -> None:
    """SIGSTOP past the store's timeout."""
    _pause(scene, "redis", SERVER_PAUSE_S)


def redis_older(scene: Scene) -> None:
    """A snapshot some seconds old takes the place of Redis' data, under living workers."""
    copy = _older_copy(scene)
    with scene.stack.supervisor_held():
        scene.stack.restore_redis(copy)


def redis_older_workers_down(scene: Scene) -> None:
    """The same while no worker runs: nobody has seen the newer data go."""
    copy = _older_copy(scene)
    with scene.stack.supervisor_held():
        while scene.stack.part_worker():
            pass
        for name in scene.stack.workers:
            scene.stack.kill(name)
        scene.stack.restore_redis(copy)


def redis_disk_full(scene: Scene) -> None:
    """
    Redis' log can grow no further for a while, for whichever Redis is started meanwhile.

    A limit on its files' size (RLIMIT_FSIZE) makes its next write a short one, as a full disk does.
    """
    scene.say(f"for {SHORT_S:.0f} s")
    end_s, limited = time.monotonic() + SHORT_S, 0
    try:
        while time.monotonic() < end_s:
            pid = scene.stack.living_pid("redis")
            if pid is not None and pid != limited:
                limited = pid
                _limit_files(pid, scene.stack.redis_log_bytes() + DISK_ROOM_BYTES)
            time.sleep(0.02)
    finally:
        _limit_files(limited, resource.RLIM_INFINITY)


def triton_killed(scene: Scene) -> None:
    """SIGKILL to the server, and so to its models."""
    _kill(scene, "triton")


def triton_paused(scene: Scene) -> None:
    """SIGSTOP to the server: requests hang."""
    _pause(scene, "triton", SHORT_S)


def stub_killed(scene: Scene) -> None:
    """SIGKILL to a process in which a model runs; the server goes on without it."""
    victim = _stub(scene)
    scene.say(f"stub {victim.pid}")
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.kill()


def stub_paused(scene: Scene) -> None:
    """SIGSTOP to a model's process: the server waits for it."""
    victim = _stub(scene)
    scene.say(f"stub {victim.pid} for {SHORT_S:.0f} s")
    with paused(victim.pid):
        time.sleep(SHORT_S)


def triton_slow(scene: Scene) -> None:
    """Models work three tenths of the time."""
    scene.say(f"models for {SHORT_S:.0f} s")
    end_s = time.monotonic() + SHORT_S
    while time.monotonic() < end_s:
        with paused(*(stub.pid for stub in scene.stack.stubs())):
            time.sleep(MODEL_PAUSE_S)
        time.sleep(MODEL_PAUSE_S * 3 / 7)


def results_refused(scene: Scene) -> None:
    """The results topic takes no record, and says so."""
    environment = scene.stack.environment
    admin = AdminClient({"bootstrap.servers": environment["HEADRACE_KAFKA_SERVERS"]})
    name = topics.with_prefix(environment["HEADRACE_PREFIX"], topics.RECOMMENDATIONS)
    scene.say(f"{name} for {SHORT_S:.0f} s")
    _largest_record(admin, name, 1)
    try:
        time.sleep(SHORT_S)
    finally:
        _largest_record(admin, name, topics.TOPICS[topics.RECOMMENDATIONS].max_record_bytes)


def poison(scene: Scene) -> None:
    """Records made to break a parser."""
    name = scene.random.choice(sorted(POISON))
    scene.say(name)
    scene.generator.poison(name)


FAULTS: Mapping[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        worker_killed,
        worker_paused,
        workers_restarted,
        worker_joins,
        worker_leaves,
        kafka_killed,
        kafka_paused,
        redis_killed,
        redis_paused,
        redis_older,
        redis_older_workers_down,
        redis_disk_full,
        triton_killed,
        triton_paused,
        stub_killed,
        stub_paused,
        triton_slow,
        results_refused,
        poison,
    )
}
OF_THE_MODEL = frozenset(
    {"triton killed", "triton paused", "stub killed", "stub paused", "triton slow"}
)
"""Slates go on without a model meanwhile: what recovers is the model."""


def drawn(seed: int) -> Iterator[str]:
    """Kinds of faults for ever: every kind once in a random order, then again in another."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(sorted(FAULTS), len(FAULTS))


def _kill(scene: Scene, name: str) -> None:
    scene.say(f"SIGKILL {name} ({scene.stack.pid(name)})")
    scene.stack.kill(name)


def _pause(scene: Scene, name: str, pause_s: float) -> None:
    pid = scene.stack.pid(name)
    scene.say(f"SIGSTOP {name} ({pid}) for {pause_s:.0f} s")
    with paused(pid):
        time.sleep(pause_s)


def _older_copy(scene: Scene) -> Path:
    """A snapshot that is a few seconds old when this returns."""
    age_s = scene.random.uniform(3.0, 8.0)
    scene.say(f"back to the state of {age_s:.1f} s ago")
    copy = scene.stack.copy_redis()
    time.sleep(age_s)
    return copy


def _limit_files(pid: int, most_bytes: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, hard))


def _largest_record(admin: AdminClient, topic: str, most_bytes: int) -> None:
    change = ConfigEntry(
        "max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource_ = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    for done in admin.incremental_alter_configs([resource_]).values():
        done.result(30)


def _stub(scene: Scene) -> psutil.Process:
    return scene.random.choice(until(scene.stack.stubs, "a model's process"))
