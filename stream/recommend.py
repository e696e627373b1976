"""The path of an event: `recommend` lists every stage of a micro-batch, from records to effects."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import structlog

from stream.decode import Accepted, Decoded, decode
from stream.fold import Folded, fold
from stream.history import Outcome, UserRow
from stream.marks import Mark
from stream.pipeline import Observer, Pipeline
from stream.rank import rank
from stream.ranking import Ranking
from stream.records import Outgoing, Record
from stream.retrieve import retrieve
from stream.signals import signal_records
from stream.slate import Slate, make_slates
from stream.state import Dependencies, Replacement
from stream.trace import trace_of

log = structlog.get_logger()

ASKED_WITHIN = 4  # turns of the event loop: then a request to the ranker has left


async def recommend(pipeline: Pipeline, records: Sequence[Record]) -> Mapping[int, int]:
    """
    Take a micro-batch from its records to its acknowledged effects.

    The order of effects is the guarantee (docs/architecture.md): signals before the rows that they
    come from, rows before slates, the mark last, so that whatever is killed, a repeat finds the
    rows and does the rest again. Ranking has no effect, so it goes on beside the first two.
    The mark is written only while the rows are there: a store may lose them and go on.

    Args:
        pipeline: What to work with.
        records: In offset order for each partition.

    Returns:
        Partition to the offset that may be committed now. When this raises, nothing may be.

    Raises:
        StateMoved: If another worker has taken over, or the store has come back older.
    """
    stage = partial(_Stage, pipeline.observe)
    rules = pipeline.rules
    with stage("decode"):
        decoded = decode(records, partitions=rules.partitions, max_ahead_ms=rules.max_ahead_ms)
    with stage("read"):
        rows, marks = await _read(pipeline, decoded)
    with stage("fold"):
        folded = fold(decoded, rows, marks)
        del decoded  # the events: what is freed late is freed when no cache has it any more
    ranking, kept = await asyncio.gather(_rank(pipeline, folded), _keep(pipeline, folded))
    with stage("slate"):
        made = _Made()
        for slate in make_slates(pipeline, folded, ranking):
            made.take(slate, trace_of(slate, ranking, rules.trace_share))
    async with pipeline.settling:
        with stage("publish"):
            await pipeline.publish([*made.records, *_moved(pipeline, folded)])
        with stage("mark"):
            await pipeline.store.write_marks(pipeline.marks.replacements(folded.marks), kept)
            pipeline.marks.wrote(folded.marks)
    pipeline.shadow.compare(ranking.answers)  # the slates are out: nobody waits for it
    _tell(pipeline, folded, ranking, made)
    return {record.partition: record.offset + 1 for record in records}


async def _read(
    pipeline: Pipeline, decoded: Sequence[Decoded]
) -> tuple[dict[str, UserRow], dict[int, Mark]]:
    users = list(dict.fromkeys(d.event.user_id for d in decoded if isinstance(d, Accepted)))
    partitions = sorted({d.record.partition for d in decoded})
    rows, marks = await pipeline.store.read(users, partitions)
    return (
        {user: UserRow.from_bytes(raw) for user, raw in zip(users, rows, strict=True)},
        pipeline.marks.check(dict(zip(partitions, marks, strict=True))),
    )


async def _rank(pipeline: Pipeline, folded: Folded) -> Ranking:
    stage = partial(_Stage, pipeline.observe)
    with stage("rank"):
        ranking = await rank(pipeline, folded)
    with stage("retrieve"):
        return await retrieve(pipeline, folded, ranking)


async def _keep(pipeline: Pipeline, folded: Folded) -> Dependencies:
    """Publish the signals of the batch, then replace the rows that they were computed from."""
    for _ in range(ASKED_WITHIN):  # or packing signals would hold up the request
        await asyncio.sleep(0)
    stage = partial(_Stage, pipeline.observe)
    with stage("signals"):
        await pipeline.publish(signal_records(folded.deltas))
    with stage("write"):
        return await pipeline.store.write_rows(
            {
                user: Replacement(row.to_bytes(), stored, row.applied)
                for user, stored in folded.stored.items()
                if (row := folded.rows[user])
            },
            pipeline.marks.expected(folded.marks),
        )


@dataclass(slots=True)
class _Made:
    """
    The slates of a micro-batch as records, and what is told of them when they are out.

    Attributes:
        records: To be published, traces as well.
        strategies, versions: How many slates each has made.
        ages: Of each slate, the time of the newest event in it and when its trigger came, epoch s.
    """

    records: list[Outgoing] = field(default_factory=list)
    strategies: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    ages: list[tuple[float, float]] = field(default_factory=list)

    def take(self, slate: Slate, trace: Outgoing | None) -> None:
        recommendation = slate.recommendation
        self.records.append(slate.outgoing())
        if trace is not None:
            self.records.append(trace)
        self.strategies[recommendation.strategy] += 1
        if recommendation.model is not None:
            self.versions[recommendation.model.version] += 1
        self.ages.append((recommendation.as_of.timestamp(), slate.trigger.timestamp_ms / 1000))


def _moved(pipeline: Pipeline, folded: Folded) -> Iterator[Outgoing]:
    """Records that go elsewhere: to dead letters, or to the partition they belong on."""
    failed_at = pipeline.now()
    yield from (one.dead_letter(failed_at) for one in folded.refused)
    yield from (one.rekeyed(pipeline.rules.partitions) for one in folded.misplaced)


def _tell(pipeline: Pipeline, folded: Folded, ranking: Ranking, made: _Made) -> None:
    observe = pipeline.observe
    log.debug(
        "batch_settled",
        records=len(folded.outcomes),
        slates=len(made.ages),
        user_ids=list(folded.newest),
    )
    observe.observe_batch(len(folded.outcomes))
    for outcome in Outcome:
        if count := folded.outcomes.count(outcome):
            observe.count_events(outcome.name.lower(), count)
    observe.count_degraded(ranking.unanswered)
    for strategy, slates in made.strategies.items():
        observe.count_slates(strategy, slates)
    for version, slates in made.versions.items():
        pipeline.versions.count_slates(version, slates)
    now_s = pipeline.now().timestamp()
    for as_of_s, arrived_s in made.ages:
        observe.observe_slate_age(max(now_s - as_of_s, 0.0))
        observe.observe_event_to_result(max(now_s - arrived_s, 0.0))


class _Stage:
    """Tells the observer how long a stage has taken that has not failed."""

    __slots__ = ("_name", "_observe", "_started")

    def __init__(self, observe: Observer, name: str) -> None:
        self._observe = observe
        self._name = name

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._observe.observe_stage(self._name, perf_counter() - self._started)
