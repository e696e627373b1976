"""The reckoning after a run: every comparison, each of which gives the misses it found."""

import importlib.util
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from services.settings import WorkerSettings
from stream import topics
from tests.chaos.expectation import Expectation, expect
from tests.chaos.ledger import NUMBER, Ledger
from tests.chaos.stack import ChaosStack
from tests.integration.ledger import Ledger as StoredState
from tests.integration.ledger import read_topic

SHOWN = 5
POLL_S = 0.5
VERIFY_WITHIN_S = 600.0
Answered = tuple[str, tuple[int, int]]


@dataclass(frozen=True)
class Verdict:
    """What was found; `misses` is empty if everything is accounted for."""

    misses: list[str]
    outcomes: Mapping[str, int]
    slates: int
    repeated_slates: int
    unreported: int  # sent, never confirmed by the broker and not on the log
    verified: str  # what `headrace verify` said last


def settle(stack: ChaosStack, within_s: float, *, at_most: int = 0) -> float | None:
    """
    Wait until no consumer is behind; the seconds that took, None if it did not happen.

    Args:
        at_most: Records that count as none: what arrives between two commits, if events go on.
    """
    began_s = time.monotonic()
    while time.monotonic() < began_s + within_s:
        if lag(stack.environment) <= at_most:
            return time.monotonic() - began_s
        time.sleep(POLL_S)
    return None


def lag(environment: Mapping[str, str]) -> int:
    """Records that the workers' group has not committed, over all topics that it reads."""
    servers, prefix = environment["HEADRACE_KAFKA_SERVERS"], environment["HEADRACE_PREFIX"]
    group = prefix + str(WorkerSettings.model_fields["worker_group"].default)
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    asked = ConsumerGroupTopicPartitions(group)
    committed = next(iter(admin.list_consumer_group_offsets([asked]).values())).result(30)
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "chaos-lag", "log_level": 0})
    try:
        behind = 0
        offsets = {(tp.topic, tp.partition): tp.offset for tp in committed.topic_partitions}
        for name in (topics.EVENTS, topics.SIGNALS):
            full = topics.with_prefix(prefix, name)
            if name not in topics.TOPICS:
                continue
            for partition in range(topics.TOPICS[name].partitions):
                at = TopicPartition(full, partition)
                low, high = consumer.get_watermark_offsets(at, timeout=30)
                behind += high - max(low, offsets.get((full, partition), 0))
        return behind
    finally:
        consumer.close()


def judge(stack: ChaosStack, ledger: Ledger) -> Verdict:
    """Compare everything; the stack runs and has settled."""
    state = StoredState(stack.environment)
    log = read_topic(state.servers, state.topic(topics.EVENTS))
    log.sort(key=lambda message: (message.partition(), message.offset()))
    expected = expect(ledger, log)
    slates = list(_slates(state))
    said, verified = verify(stack)
    return Verdict(
        misses=[
            *expected.misses,
            *(f"not delivered: {reason}" for reason in sorted(set(ledger.refused))),
            *_outcomes(state, expected),
            *_last_slates(slates, expected),
            *_rows(state, expected),
            *_letters(state, expected),
            *said,
        ],
        outcomes=dict(sum(expected.outcomes.values(), Counter())),  # asdict() breaks a Counter
        slates=len(slates),
        repeated_slates=len(slates) - len(set(slates)),
        unreported=sum(entry.place is None for entry in ledger.entries),
        verified=verified,
    )


def verify(stack: ChaosStack) -> tuple[list[str], str]:
    """What `headrace verify` finds, and its last line."""
    if importlib.util.find_spec("services.commands.verify") is None:
        return [], "there is no `headrace verify`"
    done = stack.run("verify", "--first", "100", timeout_s=VERIFY_WITHIN_S)
    said = done.stdout.strip().splitlines()
    if done.returncode == 0:
        return [], said[-1] if said else ""
    complaint = f"headrace verify: exit code {done.returncode}"
    return [complaint, *said, *done.stderr.strip().splitlines()[-1:]], complaint


def _outcomes(state: StoredState, expected: Expectation) -> list[str]:
    """Each partition's mark counts its records as they were expected."""
    partitions = range(topics.EVENT_PARTITIONS)
    found = {}
    for partition, raw in zip(partitions, state.store.read_marks(partitions), strict=True):
        mark = orjson.loads(raw or b"{}")
        names = ("folded", "duplicate", "late", "rekeyed", "dead_lettered")
        found[partition] = {name: mark.get(name, 0) for name in names if mark.get(name)}
    return _differing(
        "counts of partition", found, {p: dict(expected.outcomes[p]) for p in partitions}
    )


def _slates(state: StoredState) -> Iterator[Answered]:
    """What each slate answers: its user, and the newest record folded in."""
    for message in read_topic(state.servers, state.topic(topics.RECOMMENDATIONS)):
        if value := message.value():
            slate = orjson.loads(value)
            at = slate["state"]
            yield slate["user_id"], (at["partition"], at["offset"])


def _last_slates(slates: Sequence[Answered], expected: Expectation) -> list[str]:
    """Each user's last slate names the newest record that was theirs."""
    last: dict[str, tuple[int, int]] = {}
    for user_id, place in slates:
        last[user_id] = max(last.get(user_id, place), place)
    return _differing("the last slate of", last, expected.newest)


def _rows(state: StoredState, expected: Expectation) -> list[str]:
    """Each list of each row holds what it should, by event time and source offset."""
    found, wanted = {}, {}
    for user_id, user in expected.users.items():
        row = state.row(user_id)
        for name, bounded in user.lists.items():
            entries = row.lists[name]
            times, offsets = entries["timestamp_ms"].tolist(), entries["offset"].tolist()
            found[f"{name} of {user_id}"] = list(zip(times, offsets, strict=True))
            wanted[f"{name} of {user_id}"] = [(at, offset) for at, offset, _ in bounded.entries]
    return _differing("the list", found, wanted)


def _letters(state: StoredState, expected: Expectation) -> list[str]:
    """Garbage, all of it and nothing else, is on the topic of dead letters."""
    found = {int(dict(letter.headers() or ())[NUMBER] or b"-1") for letter in state.letters()}
    missing, extra = expected.letters - found, found - expected.letters
    return [
        *(f"record {number} is no dead letter" for number in sorted(missing)),
        *(f"record {number} is a dead letter" for number in sorted(extra)),
    ]


def _differing(what: str, found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> list[str]:
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    shown = [f"{what} {key}: {found.get(key)}, expected {expected.get(key)}" for key in keys]
    more = [f"{what} …: {len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return [line[:400] for line in shown[:SHOWN]] + more
