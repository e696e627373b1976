"""The path of an event: `recommend` lists every stage of a micro-batch, from records to effects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter

import structlog

from stream.decode import Accepted, Decoded, decode
from stream.fold import Folded, fold
from stream.history import Outcome, UserRow
from stream.marks import Mark
from stream.pipeline import Observer, Pipeline, RowStore
from stream.popularity import count_live
from stream.rank import rank
from stream.records import Outgoing, Record
from stream.slate import Slate, make_slates
from stream.trace import traces

log = structlog.get_logger()


async def recommend(pipeline: Pipeline, records: Sequence[Record]) -> Mapping[int, int]:
    """
    Take a micro-batch from its records to its acknowledged effects.

    The order of effects is the guarantee (docs/architecture.md): rows before slates, the mark
    last, so that whatever is killed, a repeat finds the rows and does the rest again.

    Args:
        pipeline: What to work with.
        records: In offset order for each partition.

    Returns:
        Partition to the offset that may be committed now. When this raises, nothing may be.
    """
    stage = _stages(pipeline.observe)
    rules = pipeline.rules
    with stage("decode"):
        decoded = decode(records, partitions=rules.partitions, max_ahead_ms=rules.max_ahead_ms)
    with stage("read"):
        rows, marks = await _read(pipeline.store, decoded)
    with stage("fold"):
        folded = fold(decoded, rows, marks)
        count_live(pipeline.live, folded.folded)
    with stage("rank"):
        ranking = await rank(pipeline, folded)
    with stage("slate"):
        slates = make_slates(pipeline, folded, ranking)
    # Signals (item statistics) will be published here: before the rows that they come from.
    with stage("write"):
        await pipeline.store.write_rows(
            {user: folded.rows[user].to_bytes() for user in folded.newest}
        )
    with stage("publish"):
        await pipeline.publish(
            [
                *(slate.outgoing() for slate in slates),
                *traces(slates, ranking, rules.trace_share),
                *_moved(pipeline, folded),
            ]
        )
    with stage("mark"):
        await pipeline.store.write_marks({p: m.to_bytes() for p, m in folded.marks.items()})
    pipeline.shadow.compare(ranking.answers)  # the slates are out: nobody waits for it
    _tell(pipeline, folded, slates)
    return {record.partition: record.offset + 1 for record in records}


async def _read(
    store: RowStore, decoded: Sequence[Decoded]
) -> tuple[dict[str, UserRow], dict[int, Mark]]:
    users = list(dict.fromkeys(d.event.user_id for d in decoded if isinstance(d, Accepted)))
    partitions = sorted({d.record.partition for d in decoded})
    rows, marks = await store.read(users, partitions)
    return (
        {user: UserRow.from_bytes(raw) for user, raw in zip(users, rows, strict=True)},
        {p: Mark.from_bytes(raw) for p, raw in zip(partitions, marks, strict=True)},
    )


def _moved(pipeline: Pipeline, folded: Folded) -> Iterator[Outgoing]:
    """Records that go elsewhere: to dead letters, or to the partition they belong on."""
    failed_at = pipeline.now()
    yield from (one.dead_letter(failed_at) for one in folded.refused)
    yield from (one.rekeyed(pipeline.rules.partitions) for one in folded.misplaced)


def _tell(pipeline: Pipeline, folded: Folded, slates: Sequence[Slate]) -> None:
    observe = pipeline.observe
    log.debug("batch_settled", records=len(folded.outcomes), slates=len(slates))
    observe.observe_batch(len(folded.outcomes))
    for outcome in Outcome:
        if count := folded.outcomes.count(outcome):
            observe.count_events(outcome.name.lower(), count)
    now_s = pipeline.now().timestamp()
    for slate in slates:
        observe.count_slate(slate.recommendation.strategy)
        if model := slate.recommendation.model:
            pipeline.versions.count_slate(model.version)
        observe.observe_event_to_result(max(now_s - slate.trigger.timestamp_ms / 1000, 0.0))


def _stages(observe: Observer) -> Callable[[str], AbstractContextManager[None]]:
    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        observe.observe_stage(name, perf_counter() - started)

    return stage
