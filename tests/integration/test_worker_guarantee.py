"""No event lost, none counted twice, whatever is killed. Real servers, real kills."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

from tests.builders import event_json
from tests.integration.ledger import Ledger, repeats
from tests.integration.support import Processes, eventually

USERS = 40


@contextmanager
def load(ledger: Ledger, *, events: int, rate: float) -> Iterator[None]:
    """Send in the background, and until the end of the block at least."""
    sending = threading.Thread(target=ledger.send_many, args=(USERS, events), kwargs={"rate": rate})
    sending.start()
    try:
        yield
    finally:
        sending.join()


async def test_kill_9_in_the_middle_of_batches_loses_and_repeats_nothing(
    environment: dict[str, str], process: Processes
) -> None:
    """A worker dies without warning; the next one finds rows, marks and offsets, and goes on."""
    ledger = Ledger(environment)
    worker = process("worker", worker_instance_id="w", batch_size=20).wait_ready()
    with load(ledger, events=4000, rate=600):
        for _ in range(2):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            worker.kill()
            worker = process("worker", worker_instance_id="w", batch_size=20).wait_ready()

    await eventually(ledger.settled, timeout_s=60)

    worker.terminate()
    ledger.assert_exact()


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
