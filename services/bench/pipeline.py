"""
How fast the pipeline is as it is shipped, on servers of its own, beside a bare loop.

Saturation is measured with a window of unanswered events that is always full; latency open-loop:
events leave when they are due, whatever has become of those before them.
"""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from services.bench.figures import BARE_LOOP, PIPELINE, Asked, Figure, Moment, Report
from services.bench.load import Answers, Load, Stopped, Traffic
from services.bench.machine import Machine
from services.bench.preparing import deploy, fill_histories, put_catalogue, write_random_version
from services.bench.redis_log import RedisLog
from services.bench.usage import Meter, Reading
from services.embedded import stack
from services.embedded.part import Status
from services.embedded.process import last_line
from services.errors import CommandFailed
from services.evaluation.ga360 import Ga360
from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from services.models.config import Placement
from services.models.serving import Serving
from services.settings import WorkerSettings
from stream import topics
from stream.history import LIMITS
from stream.topics import with_prefix

BARE_PREFIX = "bare-"
SUSTAINED = 0.8  # of saturation
# What a storefront waits for more events to send. librdkafka sends a request for each partition:
# at 1,000/s and its own 5 ms, nearly every event would be a request that Kafka answers alone.
AT_ONCE_MS, GATHERING_MS = 0, 50
ACTIONS = 500_000  # drawn; they repeat
WARM_UP_S = 2.0  # before each figure at a fixed rate
SATURATED_WARM_UP_S = 10.0  # Kafka compiles anew for a consumer of other habits
FIRST_WARM_UP_S = 10.0  # the ranker's kernels, and Kafka's machine code for large requests
SMALL_WARM_UP_S = 30.0  # and for small ones, of which it needs some 10,000
SMALL_WARM_UP_RATE = 300.0  # events/s
GROWING_S = 60.0  # some 100,000 events: the rows of the items most visited are full
SOAK_EVERY_S = 5.0
SOAK_SATURATED_S = 60.0  # Redis writes its log anew once a minute
READY_WITHIN_S = 180.0
ANSWER_WITHIN_S = 30.0
STATISTICS_WITHIN_S = 60.0

Say = Callable[[str], None]


async def measured(
    asked: Asked, settings: WorkerSettings, say: Say, run: Callable[["Bench"], Report]
) -> Report:
    """
    Start the servers, measure, and end them.

    Args:
        settings: Its data directory is this run's own.
        say: Is told what is going on.
        run: What of `Bench` to measure; called in a thread.

    Raises:
        CommandFailed: If a server's address is set, or something is not installed or not ready.
    """
    given = settings.model_fields_set & set(stack.ADDRESS_SETTINGS.values())
    if given:
        names = ", ".join(f"HEADRACE_{name.upper()}" for name in sorted(given))
        raise CommandFailed(f"the benchmark measures servers of its own: unset {names}.")
    say("Starting Kafka, Redis, Triton and the worker")
    options = stack.Options(workers=asked.workers, brief=asked.brief)
    os.environ["HEADRACE_BATCH_SIZE"] = str(asked.batch)  # workers have our environment
    async with stack.running(settings, options, lambda statuses: None) as running:
        await _ready(running)
        bench = await asyncio.to_thread(Bench.prepared, asked, settings, running.statuses, say)
        # The load comes from this process: a full pass over all that it holds takes half a second,
        # and was the p99 of whichever figure it fell into.
        gc.collect()
        gc.freeze()
        measuring = asyncio.get_running_loop().run_in_executor(None, run, bench)
        try:
            return await asyncio.shield(measuring)
        except asyncio.CancelledError:
            bench.stop()  # before its servers are
            with suppress(Stopped):
                await measuring
            raise


async def _ready(running: stack.Stack) -> None:
    try:
        await asyncio.wait_for(running.all_ready(), READY_WITHIN_S)
    except TimeoutError:
        late = {name: one for name, one in running.statuses.items() if one.state != "ready"}
        why = "; ".join(f"{name} is {one.state} ({one.reason})" for name, one in late.items())
        raise CommandFailed(f"not ready in {READY_WITHIN_S:.0f} s: {why}.") from None


class Bench:
    """What is measured on a running stack, all of it blocking."""

    def __init__(
        self,
        asked: Asked,
        settings: WorkerSettings,
        statuses: Mapping[str, Status],
        traffics: Sequence[Traffic],
        version: Path,
        say: Say,
    ) -> None:
        self._asked = asked
        self._settings = settings
        self._addresses = {name: status.address for name, status in statuses.items()}
        self._pids = {name: status.pid for name, status in statuses.items() if status.pid}
        self._redis_log = RedisLog(self._addresses["redis"], self._pids["redis"])
        self._traffics = traffics
        self._version = version
        self._say = say
        self._stop = threading.Event()
        self._report = Report(Machine.this(asked.device), asked)

    @classmethod
    def prepared(
        cls, asked: Asked, settings: WorkerSettings, statuses: Mapping[str, Status], say: Say
    ) -> "Bench":
        """Publish a catalogue, deploy a model, give the users their histories."""
        addresses = {name: status.address for name, status in statuses.items()}
        settings = settings.model_copy(
            update={
                "kafka_servers": addresses["kafka"],
                "redis_address": addresses["redis"],
                "triton_address": addresses["triton"],
            }
        )
        say(f"Putting {asked.items:,} items into the catalogue, and a model behind it")
        traffics = _traffics(asked)
        item_ids = sorted({one for traffic in traffics for one in traffic.item_ids})
        ensure_topics(settings.kafka, prefix=BARE_PREFIX)
        put_catalogue(settings, item_ids)
        directory = settings.data_dir / "random"
        write_random_version(directory, item_ids, dim=asked.dim, history_length=asked.history)
        serving = Serving(
            repository=settings.data_dir / "models" / settings.model_name,
            triton_address=settings.triton_address,
            kafka=settings.kafka,
            prefix=settings.prefix,
            placement=Placement(asked.device),
        )
        version = deploy(directory, serving)
        bench = cls(asked, settings, statuses, traffics, version, say)
        for traffic in traffics:
            say(f"Giving {len(traffic.user_ids):,} users their histories ({traffic.name})")
            with bench.filling(len(traffic.user_ids)):
                fill_histories(settings, traffic.user_ids, item_ids, length=asked.history)
        return bench

    def stop(self) -> None:
        """End what goes on in another thread, with `Stopped`."""
        self._stop.set()

    @contextmanager
    def filling(self, users: int) -> Iterator[None]:
        """Note how much larger Redis becomes for each of so many users."""
        redis = Meter({"redis": self._pids["redis"]})
        before_mb = redis.memory_mb()["redis"]
        yield
        grown_mb = redis.memory_mb()["redis"] - before_mb
        self._report.bytes_each["Redis, a user"] = grown_mb * 1e6 / users

    def at_most(self) -> Report:
        """Saturation of the pipeline under the first load, and what is kept of it."""
        warmed_up = self._warm_up()
        traffic = self._traffics[0]
        meter = Meter(self._pids, self._metrics())
        with self._load(self._settings.prefix, traffic, GATHERING_MS) as load:
            self._report.figures.append(self._saturate(PIPELINE, load, traffic, meter))
            for topic in (topics.EVENTS, topics.RECOMMENDATIONS, topics.SIGNALS):
                each = self._log_bytes(topic) / (warmed_up + load.sent)
                self._report.bytes_each[f"{topic}, an event"] = each
        items = len(traffic.item_ids)
        self._report.bytes_each[f"{topics.ITEMS}, an item"] = self._log_bytes(topics.ITEMS) / items
        return self._report

    def run(self) -> Report:
        """Every load on the pipeline and on the bare loop; then the soak."""
        self._warm_up()
        self._warm_up_for_rates()
        for traffic in self._traffics:
            with self._bare_loop() as pid:
                self._side_by_side(traffic, pid)
        if self._asked.soak_minutes:
            self._soak(self._grown(self._traffics[0]))
        return self._report

    def _side_by_side(self, traffic: Traffic, bare_loop: int) -> None:
        # In turns: the machine's speed changes from minute to minute, and the ratio with it.
        servers = {name: self._pids[name] for name in ("kafka", "redis", "triton")}
        both = {
            PIPELINE: (self._settings.prefix, Meter(self._pids, self._metrics())),
            BARE_LOOP: (BARE_PREFIX, Meter({BARE_LOOP: bare_loop, **servers})),
        }
        rounds: dict[str, list[Figure]] = {way: [] for way in both}
        with self._redis_log.rewritten_only_when_asked():
            for _ in range(self._asked.rounds):
                for way, (prefix, meter) in both.items():
                    rounds[way].append(self._round(way, prefix, traffic, meter))
            self._redis_log.rewrite()  # or it would be in the midst of what comes next
        middle = {way: _middle(figures) for way, figures in rounds.items()}
        self._report.figures += middle.values()
        with self._load(self._settings.prefix, traffic, GATHERING_MS) as load:
            rate = SUSTAINED * middle[PIPELINE].events_per_s
            self._at(rate, PIPELINE, load, traffic, both[PIPELINE][1], self._asked.seconds)
        for rate in self._asked.rates:
            for way, (prefix, meter) in both.items():
                with self._load(prefix, traffic, AT_ONCE_MS) as load:
                    self._at(rate, way, load, traffic, meter, self._asked.seconds_at(rate))

    def _round(self, way: str, prefix: str, traffic: Traffic, meter: Meter) -> Figure:
        """Saturation, with its share of what writing Redis' log anew costs."""
        rewriting_s, growth = self._redis_log.rewrite(), self._redis_log.growth()
        before = self._redis_log.size()
        with self._load(prefix, traffic, GATHERING_MS) as load:
            figure = self._saturate(way, load, traffic, meter)
            written = (self._redis_log.size() - before) / load.sent  # bytes an event
        redis_us = figure.cpu_us["redis"] + rewriting_s * 1e6 * written / growth
        return replace(figure, cpu_us={**figure.cpu_us, "redis": redis_us})

    def _log_bytes(self, topic: str) -> int:
        """What a topic takes in Kafka's log, compressed as it is."""
        name = with_prefix(self._settings.prefix, topic)
        segments = (self._settings.data_dir / "kafka" / "data").glob(f"{name}-*/*.log")
        return sum(segment.stat().st_size for segment in segments)

    def _metrics(self) -> list[str]:
        return [a for name, a in self._addresses.items() if name.startswith("worker-")]

    def _warm_up(self) -> int:
        """How many events it took."""
        self._say("Warming up")
        with self._load(self._settings.prefix, self._traffics[0], GATHERING_MS) as load:
            load.saturating(self._asked.window, min(FIRST_WARM_UP_S, 2 * self._asked.seconds))
            load.settle()
            return load.sent

    def _warm_up_for_rates(self) -> None:
        with self._load(self._settings.prefix, self._traffics[0], AT_ONCE_MS) as load:
            seconds = min(SMALL_WARM_UP_S, self._asked.seconds_at(SMALL_WARM_UP_RATE))
            load.by_schedule(SMALL_WARM_UP_RATE, seconds)

    def _saturate(
        self,
        way: str,
        load: Load,
        traffic: Traffic,
        meter: Meter,
        seconds: float | None = None,
    ) -> Figure:
        self._say(f"{way}, {traffic.name}: saturation")
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        # The bare loop has just been started.
        while not load.saturating(self._asked.window, 0.5).events:
            if time.monotonic() > deadline_s:
                log = "worker-1" if way == PIPELINE else "bare-loop"
                line = last_line(self._settings.data_dir / "logs" / f"{log}.log")
                raise CommandFailed(f"the {way} gave no slate. Its last line: {line}")
        load.saturating(self._asked.window, min(SATURATED_WARM_UP_S, self._asked.seconds))
        before = meter.read()
        answers = load.saturating(self._asked.window, seconds or self._asked.seconds)
        used = meter.read().since(before)
        figure = _figure(way, traffic, None, answers, used, meter.memory_mb())
        load.settle()
        if way == PIPELINE:
            # Work put off is none saved: what is left of it is said beside the figure.
            figure = replace(figure, statistics_s=_statistics_s(meter))
        return figure

    def _at(
        self, rate: float, way: str, load: Load, traffic: Traffic, meter: Meter, seconds: float
    ) -> None:
        self._say(f"{way}, {traffic.name}: {rate:,.0f} events/s")
        load.by_schedule(rate, min(WARM_UP_S, self._asked.seconds))
        before, rewritten_before = meter.read(), self._redis_log.rewritings()
        answers = load.by_schedule(rate, seconds)
        used = meter.read().since(before)
        rewritings = self._redis_log.rewritings() - rewritten_before
        figure = _figure(way, traffic, rate, answers, used, meter.memory_mb())
        self._report.figures.append(replace(figure, log_rewritings=rewritings))

    def _grown(self, traffic: Traffic) -> Traffic:
        """The same actions, of other users whose rows are as long as rows become."""
        grown = replace(
            traffic,
            name=f"{traffic.name}, full rows",
            user_ids=[f"grown-{number}" for number in range(len(traffic.user_ids))],
        )
        length = LIMITS["interactions"]
        self._say(f"Giving {len(grown.user_ids):,} users histories of {length}, for the soak")
        fill_histories(self._settings, grown.user_ids, grown.item_ids, length=length)
        return grown

    def _soak(self, traffic: Traffic) -> None:
        meter = Meter(self._pids, self._metrics())
        asked_s = self._asked.soak_minutes * 60
        saturated_s = min(SOAK_SATURATED_S, asked_s)
        with self._load(self._settings.prefix, traffic, GATHERING_MS) as load:
            # What items' rows grow by costs as well: saturation is measured when they have grown.
            self._say("Letting items' rows grow, for the soak")
            load.saturating(self._asked.window, min(GROWING_S, asked_s))
            top = self._saturate(PIPELINE, load, traffic, meter, saturated_s)
            self._report.figures.append(top)
            rate = self._report.soak_rate = SUSTAINED * top.events_per_s
            began_s = time.monotonic()
            while (passed_s := time.monotonic() - began_s) < asked_s:
                passed = f"{passed_s // 60:.0f} of {self._asked.soak_minutes:g} min"
                self._say(f"Soak at {rate:,.0f} events/s: {passed}")
                # The next five seconds wait for no slate of these: it is one schedule.
                answers = load.by_schedule(rate, SOAK_EVERY_S, to_the_last=False)
                self._report.soak.append(
                    Moment(
                        time.monotonic() - began_s,
                        answers.events / answers.seconds,
                        answers.percentile_ms(99),
                        meter.memory_mb(),
                    )
                )
            load.settle()
            # Whether it is the machine that has changed meanwhile.
            after = replace(traffic, name=f"{traffic.name}, afterwards")
            figure = self._saturate(PIPELINE, load, after, meter, saturated_s)
            self._report.figures.append(figure)

    @contextmanager
    def _load(self, prefix: str, traffic: Traffic, linger_ms: int) -> Iterator[Load]:
        kafka = KafkaConnection(self._addresses["kafka"])
        load = Load(kafka, prefix, traffic, linger_ms=linger_ms, stop=self._stop)
        try:
            yield load
        finally:
            load.close()

    @contextmanager
    def _bare_loop(self) -> Iterator[int]:
        servers = [self._addresses[name] for name in ("kafka", "redis", "triton")]
        log = self._settings.data_dir / "logs" / "bare-loop.log"
        with log.open("wb") as output:
            loop = subprocess.Popen(
                [sys.executable, "-m", "services.bench.bare_loop", *servers, BARE_PREFIX,
                 str(self._version)],
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield loop.pid
        finally:
            loop.terminate()
            loop.wait(30)


def _traffics(asked: Asked) -> list[Traffic]:
    item_ids = [f"item-{number}" for number in range(asked.items)]
    traffics = [
        Traffic.drawn(
            f"zipf {exponent:g}" if exponent else "uniform",
            item_ids,
            users=asked.users,
            exponent=exponent,
            length=ACTIONS,
        )
        for exponent in asked.exponents
    ]
    if asked.ga360:
        traffics.append(Traffic.of_log("ga360", Ga360.read(asked.ga360).log))
    return traffics


def _middle(figures: Sequence[Figure]) -> Figure:
    """The one whose CPU time is the median."""
    return sorted(figures, key=lambda one: one.total_cpu_us)[len(figures) // 2]


def _statistics_s(meter: Meter) -> float:
    """Until item statistics have taken in all that was said of items, at most a minute."""
    began_s = time.monotonic()
    while meter.lag(topics.SIGNALS) and time.monotonic() - began_s < STATISTICS_WITHIN_S:
        time.sleep(0.1)
    return time.monotonic() - began_s


def _figure(
    way: str,
    traffic: Traffic,
    rate: float | None,
    answers: Answers,
    used: Reading,
    memory_mb: Mapping[str, float],
) -> Figure:
    events = max(answers.events, 1)
    return Figure(
        way=way,
        traffic=traffic.name,
        rate=rate,
        events_per_s=answers.events / answers.seconds,
        slates_per_s=answers.slates / answers.seconds,
        p50_ms=answers.percentile_ms(50),
        p90_ms=answers.percentile_ms(90),
        p99_ms=answers.percentile_ms(99),
        worst_ms=answers.percentile_ms(100),
        unanswered=answers.unanswered,
        batch=used.records / max(used.batches, 1),
        cpu_us={name: s / events * 1e6 for name, s in used.cpu_s.items()},
        stage_us={name: s / events * 1e6 for name, s in used.stage_s.items() if s},
        memory_mb=memory_mb,
    )
