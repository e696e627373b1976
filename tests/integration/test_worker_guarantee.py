"""No event lost, none counted twice, whatever is killed. Real servers, real kills."""

import asyncio
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from services.settings import Settings
from services.states import project
from stream import topics
from tests.builders import event_json
from tests.chaos.stack import paused
from tests.integration.ledger import Ledger, load, repeats
from tests.integration.support import Processes, Running, Servers, eventually

USERS = 40
BATCH = 20
TWO_AT_ONCE = {"batch_size": BATCH, "batches_in_flight": 2}


async def test_kill_9_in_the_middle_of_batches_loses_nothing_and_repeats_one_at_most(
    environment: dict[str, str], process: Processes
) -> None:
    """A worker dies without warning; the next one finds rows, marks and offsets, and goes on."""
    ledger = Ledger(environment)
    kills = 2
    worker = process("worker", worker_instance_id="w", **TWO_AT_ONCE).wait_ready()
    with load(ledger, events=4000, rate=600):
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            worker.kill()
            worker = process("worker", worker_instance_id="w", **TWO_AT_ONCE).wait_ready()

    await eventually(ledger.settled, timeout_s=60)

    worker.terminate()
    ledger.assert_exact()
    assert repeats(ledger.slates()) <= kills * BATCH


async def test_kill_9_at_the_worst_moment_repeats_one_batch(
    environment: dict[str, str], process: Processes, tmp_path: Path
) -> None:
    """Its slates are out, its mark is not written, and the other lane has come as far as it can."""
    ledger = Ledger(environment)
    ledger.send_many(USERS, 10 * BATCH)
    program = (sys.executable, Path(__file__).with_name("dying.py"))
    dying = Processes(tmp_path, environment, program)("worker", **TWO_AT_ONCE)
    assert await asyncio.to_thread(dying.popen.wait, 60) == -signal.SIGKILL

    process("worker", **TWO_AT_ONCE).wait_ready()
    await eventually(ledger.settled, timeout_s=60)

    ledger.assert_exact()
    assert 0 < repeats(ledger.slates()) <= BATCH


@pytest.mark.parametrize(
    ("way", "reason"), [("waits", "no fetch has ended"), ("finds nothing", "has been at")]
)
async def test_a_worker_whose_consumer_hangs_ends_and_the_next_one_goes_on(
    way: str, reason: str, environment: dict[str, str], process: Processes, tmp_path: Path
) -> None:
    """After Kafka's death aiokafka has waited for minutes; the process looked alive."""
    ledger = Ledger(environment)
    program = (sys.executable, Path(__file__).with_name("hanging.py"), way)
    hanging = Processes(tmp_path, environment, program)("worker", worker_stop_timeout_s=1)
    hanging.wait_ready()
    first = ledger.send(user_id="ada", item_id="i1")
    await eventually(lambda: ledger.slates_after(first))
    ledger.raw(b"hang", b"garbage")
    ledger.flush()
    last = ledger.send(user_id="ada", item_id="i2")
    ledger.flush()

    assert await asyncio.to_thread(hanging.popen.wait, 60) == 1
    assert reason in hanging.output

    process("worker").wait_ready()
    await eventually(lambda: ledger.slates_after(last))


async def test_a_fresh_consumer_group_reads_again_and_changes_nothing(
    environment: dict[str, str], process: Processes
) -> None:
    """Committed offsets may be lost or reset; the marks in the feature store are what counts."""
    ledger = Ledger(environment)
    worker = process("worker", batch_size=20).wait_ready()
    ledger.send_many(USERS, 1000)
    await eventually(lambda: sum(ledger.counters().values()) > 300)
    worker.kill()

    process("worker", worker_group="another").wait_ready()
    await eventually(ledger.settled, timeout_s=60)

    await asyncio.sleep(1)
    ledger.assert_exact()


async def test_kills_between_one_record_gaps_lose_nothing(
    environment: dict[str, str], process: Processes
) -> None:
    """
    A transaction's end takes an offset: with one event each, every second offset is missing.

    Faust's own commits jump over records at work when such gaps lie side by side.
    """
    ledger = Ledger(environment, config={"transactional.id": environment["HEADRACE_PREFIX"]})
    ledger.producer.init_transactions(30)
    worker = process("worker", worker_instance_id="w", batch_size=5).wait_ready()

    def send() -> None:
        for number in range(400):
            ledger.producer.begin_transaction()
            ledger.send(user_id=f"u{number % USERS}", item_id="hat")
            ledger.producer.commit_transaction(10)

    sending = threading.Thread(target=send)
    sending.start()
    await asyncio.sleep(1.0)
    worker.kill()
    process("worker", worker_instance_id="w", batch_size=5).wait_ready()
    sending.join()

    await eventually(ledger.settled, timeout_s=60)
    ledger.assert_exact()


async def test_sigterm_loses_nothing_and_repeats_fewer_than_ten(
    environment: dict[str, str], process: Processes
) -> None:
    """A deploy in the middle of the day: the batch in flight is finished, the rest left alone."""
    ledger = Ledger(environment)
    worker = process("worker", worker_instance_id="w", batch_size=50).wait_ready()
    with load(ledger, events=3000, rate=600):
        await asyncio.sleep(1.5)
        assert worker.terminate() == 0
        process("worker", worker_instance_id="w", batch_size=50).wait_ready()

    await eventually(ledger.settled, timeout_s=60)

    ledger.assert_exact()
    assert repeats(ledger.slates()) < 10


async def test_a_worker_told_to_stop_while_kafka_is_silent_ends_in_time_and_loses_nothing(
    stack: Servers, environment: dict[str, str], process: Processes
) -> None:
    """Its last commit has no answer; whoever waits for its end must not wait with it."""
    ledger = Ledger(environment)
    worker = process("worker", worker_stop_timeout_s=1, worker_session_timeout_s=2).wait_ready()
    with load(ledger, events=800, rate=200):
        await asyncio.sleep(1.5)
        with paused(stack.part("kafka")["pid"]):
            code = worker.terminate(timeout_s=5)
        process("worker").wait_ready()

    await eventually(ledger.settled, timeout_s=60)

    assert code == 1
    assert "the Kafka consumer has not stopped within 1 s" in worker.output
    ledger.assert_exact()


async def test_a_worker_joins_and_leaves_under_load(
    environment: dict[str, str], process: Processes
) -> None:
    """Rebalances move partitions while events arrive; each is folded by exactly one of the two."""
    ledger = Ledger(environment)
    first = process("worker").wait_ready()
    with load(ledger, events=4400, rate=400):
        second = process("worker").wait_ready()
        await eventually(lambda: "partitions_revoked" in first.output)
        await asyncio.sleep(1.5)
        assert second.terminate() == 0
        await asyncio.sleep(1.0)

    await eventually(ledger.settled, timeout_s=60)

    ledger.assert_exact()
    assert repeats(ledger.slates()) < 10


async def test_a_worker_that_wakes_up_after_its_session_changes_nothing(
    environment: dict[str, str], process: Processes
) -> None:
    """Paused in the middle of a batch; another owns its partitions by the time it goes on."""
    ledger = Ledger(environment)
    sleeper, other = (process("worker", worker_session_timeout_s=2) for _ in range(2))
    for worker in (sleeper, other):
        worker.wait_ready()
    with load(ledger, events=2000, rate=300):
        await asyncio.sleep(1.0)
        sleeper.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(4.0)
        sleeper.popen.send_signal(signal.SIGCONT)

    await eventually(ledger.settled, timeout_s=60)

    ledger.assert_exact()


@pytest.mark.parametrize("events_after", [300, 0])
async def test_a_redis_that_comes_back_older_stops_the_worker_and_the_next_one_rewinds(
    environment: dict[str, str], process: Processes, events_after: int
) -> None:
    """A failover to a replica that was behind, or a restored snapshot; at noon, and at night."""
    ledger = Ledger(environment)
    worker = process("worker", worker_instance_id="w", batch_size=20).wait_ready()
    ledger.send_many(USERS, 300)
    await eventually(ledger.settled)
    restore = snapshot(ledger)
    ledger.send_many(USERS, 300)
    await eventually(ledger.settled)
    restore()
    ledger.send_many(USERS, events_after)

    assert await asyncio.to_thread(worker.popen.wait, 30) == 1
    assert "StateMoved" in worker.output
    process("worker", worker_instance_id="w").wait_ready()
    await eventually(ledger.settled, timeout_s=60)

    ledger.assert_exact()


def snapshot(ledger: Ledger) -> Callable[[], None]:
    """Keep what Redis has of this test, and return what puts that in place of what it has then."""
    host, _, port = ledger.environment["HEADRACE_REDIS_ADDRESS"].rpartition(":")
    redis = Redis(host, int(port))
    ours = f"*{project(Settings(prefix=ledger.prefix), ledger.state)}*"
    kept = {key: redis.dump(key) for key in redis.scan_iter(ours, count=10_000)}

    def restore() -> None:
        with redis.pipeline() as pipe:
            pipe.delete(*redis.scan_iter(ours, count=10_000))
            for key, value in kept.items():
                pipe.restore(key, 0, value)
            pipe.execute()

    return restore


async def test_a_log_that_does_not_continue_what_is_stored_is_refused(
    environment: dict[str, str], process: Processes
) -> None:
    """Retention has taken what was not read yet, or the topic was made again: rebuild."""
    ledger = Ledger(environment)
    events = ledger.topic(topics.EVENTS)
    worker = process("worker").wait_ready()
    ledger.send_many(USERS, 100)
    await eventually(ledger.settled)
    worker.terminate()
    ledger.send_many(USERS, 400)
    admin = AdminClient({"bootstrap.servers": ledger.servers})
    for cut in admin.delete_records(
        [TopicPartition(events, p, OFFSET_END) for p in range(topics.EVENT_PARTITIONS)]
    ).values():
        cut.result()

    cut_short = process("worker")
    assert await asyncio.to_thread(cut_short.popen.wait, 60) == 2
    assert refusal(cut_short).endswith(REBUILD)
    assert "and its log begins at" in refusal(cut_short)

    admin.delete_topics([events])[events].result()
    await eventually(lambda: events not in admin.list_topics(timeout=5).topics)
    ensure_topics(KafkaConnection(ledger.servers), prefix=ledger.prefix)
    made_again = process("worker")
    assert await asyncio.to_thread(made_again.popen.wait, 60) == 2
    assert refusal(made_again).endswith(REBUILD)
    assert "in another log: topic_id" in refusal(made_again)


REBUILD = "Run `headrace rebuild`: it folds the archive and what there is of the log."


def refusal(worker: Running) -> str:
    """The one line that says why it does not work."""
    (line,) = (line for line in worker.output.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in worker.output
    return line


async def test_counters_account_for_every_kind_of_record_through_a_kill(
    environment: dict[str, str], process: Processes
) -> None:
    """Events in = folded + duplicate + late + rekeyed + dead-lettered, and kill -9 changes none."""
    ledger = Ledger(environment)
    worker = process("worker", worker_instance_id="w", batch_size=10).wait_ready()
    ledger.send_many(USERS, 500)
    for number in range(50):
        again = event_json(user_id="u0", event_id=f"again{number // 2}")
        ledger.raw(again["user_id"].encode(), orjson.dumps(again))
        ledger.raw(b"k", b"garbage %d" % number)
        misplaced = event_json(user_id=f"u{number % USERS}")
        ledger.raw(b"wrong key", orjson.dumps(misplaced))
    ledger.flush()
    await asyncio.sleep(0.3)
    worker.kill()
    process("worker", worker_instance_id="w", batch_size=10).wait_ready()

    def accounted() -> bool:
        counts = ledger.counters()
        # A record published again under its user's key is read, and counted, once more.
        return sum(counts.values()) >= 500 + 150 + counts["rekeyed"]

    await eventually(accounted, timeout_s=60)
    await asyncio.sleep(0.5)
    counts = ledger.counters()
    # A crash may publish a misplaced record twice: the copy is a duplicate, and is counted.
    assert counts["rekeyed"] == 50
    assert counts["dead_lettered"] == 50
    assert counts["folded"] == 500 + 25 + 50
    assert (counts["duplicate"] >= 25, counts["late"]) == (True, 0)
