"""
What must have become of every record, worked out from the ledger and the log alone.

The rules of DESIGN's user row written down a second time, as plainly as possible: sorted lists and
sets. Nothing of `stream.history` or `stream.fold` is imported.
"""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Message

from stream.records import SOURCE_PARTITION
from tests.chaos.ledger import NUMBER, Kind, Ledger

CAPACITY = {
    "interactions": 128,
    "purchases": 256,
    "dislikes": 256,
    "impressions": 256,
    "searches": 64,
}
LIST_OF = {
    "impression": "impressions",
    "search": "searches",
    "purchase": "purchases",
    "refund": "purchases",
    "dislike": "dislikes",
}


@dataclass
class BoundedList:
    """Entries by (event time, offset); the oldest leaves when it is full."""

    capacity: int
    entries: list[tuple[int, int, str]] = field(default_factory=list)
    evicted_ms: int = -(1 << 63)

    def is_late(self, at_ms: int) -> bool:
        """Whether an event of that time cannot be told from a duplicate of an evicted one."""
        full = len(self.entries) == self.capacity
        return at_ms <= self.evicted_ms or (full and at_ms < self.entries[0][0])

    def add(self, at_ms: int, offset: int, event_id: str) -> str | None:
        """Take it in; the event id that leaves for it, if any."""
        insort(self.entries, (at_ms, offset, event_id))
        if len(self.entries) <= self.capacity:
            return None
        self.evicted_ms, _, left = self.entries.pop(0)
        return left


class User:
    """One user's lists, and the event ids that they hold."""

    def __init__(self) -> None:
        self.lists = {name: BoundedList(most) for name, most in CAPACITY.items()}
        self.event_ids: set[str] = set()

    def take(self, event_type: str, event_id: str, at_ms: int, offset: int) -> str:
        """Take one event in; what becomes of it."""
        into = self.lists[LIST_OF.get(event_type, "interactions")]
        if event_id in self.event_ids:
            return "duplicate"
        if into.is_late(at_ms):
            return "late"
        self.event_ids.add(event_id)
        if left := into.add(at_ms, offset, event_id):
            self.event_ids.discard(left)
        return "folded"


@dataclass
class Expectation:
    """
    What the log of events amounts to.

    Attributes:
        outcomes: Partition to records by what must have become of them.
        newest: User to the place of the newest record of theirs that a row must have taken.
        users: The rows as they must be.
        letters: Numbers of the entries that must be dead letters.
        misses: What the log itself does not have as it should.
    """

    outcomes: Mapping[int, Counter[str]]
    newest: dict[str, tuple[int, int]]
    users: Mapping[str, User]
    letters: set[int]
    misses: list[str]


def expect(ledger: Ledger, log: Iterable[Message]) -> Expectation:
    """
    Account for every record of *log* (in offset order for each partition) by *ledger*.

    A copy of a misplaced record has its number, and the header that says where it was; a crash may
    leave two copies, of which the second is a duplicate.
    """
    found = Expectation(defaultdict(Counter), {}, defaultdict(User), set(), [])
    places: dict[int, tuple[int, int]] = {}
    misplaced, copied = set[int](), set[int]()
    for message in log:
        partition, offset = message.partition() or 0, message.offset() or 0
        headers = dict(message.headers() or ())
        number = int(headers[NUMBER] or b"-1")
        entry = ledger.entries[number]
        is_copy = SOURCE_PARTITION in headers
        if not is_copy:
            if number in places:
                found.misses.append(f"record {number} is on the log twice")
            places[number] = partition, offset
        else:
            copied.add(number)
        if entry.kind is Kind.GARBAGE:
            found.letters.add(number)
            outcome = "dead_lettered"
        elif partition != ledger.homes.get(entry.user_id):
            misplaced.add(number)
            outcome = "rekeyed"
        else:
            user = found.users[entry.user_id]
            outcome = user.take(entry.event_type, entry.event_id, entry.at_ms, offset)
            found.newest[entry.user_id] = partition, offset
        found.outcomes[partition][outcome] += 1
    found.misses += [
        f"record {number} was delivered at {place} and is not there"
        for number, place in ledger.places()
        if places.get(number) != place
    ]
    found.misses += [f"record {number} has no copy" for number in sorted(misplaced - copied)]
    found.misses += [
        f"record {number} has a copy without a reason" for number in copied - misplaced
    ]
    return found
