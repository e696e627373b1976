"""One run: load, faults one after the other with a recovery after each, and the reckoning."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
from confluent_kafka import Producer

from stream import topics
from tests.chaos.faults import FAULTS, OF_THE_MODEL, SESSION_TIMEOUT_S, Scene
from tests.chaos.generator import Generator, Traffic
from tests.chaos.recovery import SAMPLE_S, Freshness, Waiting, Watch
from tests.chaos.serving import Serving
from tests.chaos.stack import ChaosStack
from tests.chaos.verdict import Verdict, judge, settle
from tests.tiny_model import build_tiny_version

RECOVER_WITHIN_S = 90.0
SETTLE_WITHIN_S = 180.0
BETWEEN_S = 2.0  # at most


@dataclass(frozen=True)
class Plan:
    """
    What a run does.

    Attributes:
        faults: Kinds in their order; as many as there is time for.
        load_s: No fault begins after so much time under load.
        fresh_s: An event that waits longer for its slate is not fresh.
        steady_s: Recovered is: fresh for so long.
    """

    seed: int
    faults: Iterator[str]
    load_s: float
    traffic: Traffic
    workers: int = 3
    fresh_s: float = 1.0
    steady_s: float = 3.0


@dataclass(frozen=True)
class Struck:
    """One fault of a run, and how long after its end all was well again; None: it was not."""

    name: str
    at_s: float
    target: str
    fresh_after_s: float | None
    model_after_s: float | None = None  # of faults that take the model away
    model_after_triton_s: float | None = None  # the same, from when Triton answered again


@dataclass
class Report:
    """What a run found."""

    seed: int
    struck: list[Struck] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    calm_s: float | None = None  # from the start of the load to fresh slates
    settled_after_s: float | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    left_behind: list[str] = field(default_factory=list)

    @property
    def misses(self) -> list[str]:
        """Everything that should not be so; empty if the run has passed."""
        missing = [f"{one.name}: no recovery" for one in self.struck if one.fresh_after_s is None]
        missing += [
            f"{one.name}: the model did not come back"
            for one in self.struck
            if one.name in OF_THE_MODEL and one.model_after_s is None
        ]
        if self.settled_after_s is None:
            missing.append(f"a consumer is still behind after {SETTLE_WITHIN_S:.0f} s")
        if self.verdict is None:
            missing.append("nothing was compared")
        else:
            missing += self.verdict.misses
        return missing + [f"left behind: {process}" for process in self.left_behind]


Say = Callable[[str], None]


def run(plan: Plan, data_dir: Path, say: Say, progress: Say) -> Report:
    """
    Carry out *plan* on a new stack in *data_dir*, and end all of it.

    Args:
        say: Is told each fault as it happens, and what became of it.
        progress: Is told every moment how things stand.
    """
    report = Report(plan.seed)
    stack = ChaosStack(data_dir, plan.workers, worker_session_timeout_s=SESSION_TIMEOUT_S)
    try:
        with ExitStack() as open_:
            say("starting the stack …")
            open_.enter_context(stack)
            prepare(stack, plan.traffic, data_dir.parent)
            environment = stack.environment
            servers, prefix = environment["HEADRACE_KAFKA_SERVERS"], environment["HEADRACE_PREFIX"]
            results = topics.with_prefix(prefix, topics.RECOMMENDATIONS)
            watch = open_.enter_context(Watch(servers, results, Waiting()))
            generator = open_.enter_context(
                Generator(servers, prefix, plan.traffic, plan.seed, watch.waiting.delivered)
            )
            serving = open_.enter_context(
                Serving(environment["HEADRACE_TRITON_ADDRESS"], "ranker", "1")
            )
            _strike(plan, Scene(stack, generator, random.Random(plan.seed), say), watch, serving,
                    report, progress)  # fmt: skip
            generator.stop()
            report.sent = generator.ledger.counts()
            say(f"{len(generator.ledger.entries):,} records sent; waiting for the last slates …")
            report.settled_after_s = settle(stack, SETTLE_WITHIN_S)
            report.restarts = {name: part["restarts"] for name, part in stack.parts().items()}
            say("comparing …")
            report.verdict = judge(stack, generator.ledger)
    finally:
        report.left_behind = stack.left_behind()
    return report


def prepare(stack: ChaosStack, traffic: Traffic, scratch: Path) -> None:
    """Publish a catalogue and deploy a small model that knows it."""
    item_ids = [f"i{number}" for number in range(traffic.items)]
    environment = stack.environment
    producer = Producer({"bootstrap.servers": environment["HEADRACE_KAFKA_SERVERS"]})
    topic = topics.with_prefix(environment["HEADRACE_PREFIX"], topics.ITEMS)
    for number, item_id in enumerate(item_ids):
        item = {"item_id": item_id, "title": f"The {item_id}", "categories": [f"c{number % 8}"]}
        producer.produce(topic, key=item_id.encode(), value=orjson.dumps(item))
    producer.flush(30)
    version = build_tiny_version(scratch / "version", item_ids[:50])
    done = stack.run("model", "deploy", str(version), "--margin", "1", "--least-coverage", "0%")
    if done.returncode:
        raise RuntimeError(f"the model was not deployed: {done.stdout}{done.stderr}")


def _strike(
    plan: Plan, scene: Scene, watch: Watch, serving: Serving, report: Report, progress: Say
) -> None:
    freshness = Freshness(scene.generator.ledger, watch)
    began_s, say = time.monotonic(), scene.say

    def show(doing: str) -> None:
        progress(
            f"{time.monotonic() - began_s:5.0f} s  {len(scene.generator.ledger.entries):,} sent, "
            f"{watch.slates:,} slates, {len(watch.waiting):,} wait  {doing}"
        )

    def recovered(since_s: float) -> float | None:
        return freshness.recovery_s(
            since_s, fresh_s=plan.fresh_s, steady_s=plan.steady_s, limit_s=RECOVER_WITHIN_S
        )

    show("the first slates")
    report.calm_s = recovered(began_s)
    for name in plan.faults:
        at_s = time.monotonic() - began_s
        if at_s > plan.load_s:
            return
        show(name)
        targets: list[str] = []

        def hit(target: str, name: str = name, targets: list[str] = targets) -> None:
            targets.append(target)
            say(f"{time.monotonic() - began_s:6.1f} s  {name}: {target}")

        scene.say = hit
        FAULTS[name](scene)
        over_s = time.monotonic()
        show(f"{name}: recovering")
        struck = Struck(name, at_s, "; ".join(targets), recovered(over_s))
        if name in OF_THE_MODEL:
            model_s = freshness.model_back_s(over_s, limit_s=RECOVER_WITHIN_S)
            struck = replace(struck, model_after_s=model_s)
            if model_s is not None:
                back_s = over_s + model_s
                triton_s = max(over_s, serving.returned_s(back_s + SAMPLE_S))
                struck = replace(struck, model_after_triton_s=max(0.0, back_s - triton_s))
        report.struck.append(struck)
        say(f"{time.monotonic() - began_s:6.1f} s  {_outcome(struck)}")
        time.sleep(scene.random.uniform(0.0, BETWEEN_S))


def _outcome(struck: Struck) -> str:
    if struck.fresh_after_s is None:
        return f"slates are NOT fresh {RECOVER_WITHIN_S:.0f} s after it"
    said = f"slates were fresh {struck.fresh_after_s:.1f} s after it"
    if struck.model_after_s is not None:
        said += f", the model back after {struck.model_after_s:.1f} s"
    if struck.model_after_triton_s is not None:
        said += f" ({struck.model_after_triton_s:.1f} s after Triton answered again)"
    return said


def kinds(struck: Sequence[Struck]) -> list[str]:
    """The kinds of fault that struck, each once, in order of appearance."""
    return list(dict.fromkeys(one.name for one in struck))
