"""A micro-batch is published when every record of it is, and only then."""

import asyncio
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from services.kafka.batch_publisher import _Reports

REPORT = cast(Message, None)  # what a report says of its record is not read


async def test_it_is_complete_with_the_last_report() -> None:
    """Rows are marked settled after this: one record too few would be lost."""
    reports = _Reports(2)

    reports.take(None, REPORT)
    await asyncio.sleep(0)
    before = reports.complete.done()
    await asyncio.to_thread(reports.take, None, REPORT)
    await reports.complete

    assert not before


async def test_one_refusal_among_many_is_raised() -> None:
    """A slate that Kafka refused was not published, whatever became of the others."""
    reports = _Reports(3)

    for error in (None, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None):
        reports.take(error, REPORT)

    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        await reports.complete


async def test_reports_that_come_after_the_end_are_nobodys() -> None:
    """A worker that stops in the middle of a batch ends with its own reason."""
    reports = _Reports(1)
    reports.complete.cancel()

    reports.take(None, REPORT)
    await asyncio.sleep(0)

    assert reports.complete.cancelled()
