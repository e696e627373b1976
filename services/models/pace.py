"""How many users fit into a request to a ranker, as its own answers tell, and whose turn it is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar

SHARE = 0.6  # of the deadline that a request may take: the next one may find a longer queue
FADE = 0.9  # of what was slow, with each answer: it is believed at once, and forgotten slowly
AT_LEAST = 16  # users: what fewer take is mostly the request's own

User = TypeVar("User")
Answer = TypeVar("Answer")


class Pace:
    """
    Bounds requests so that they are answered in time, and lets batches take turns.

    How long a user takes depends on the catalogue and on who else asks. Whoever asks less at a time
    waits less long for the others' requests as well, so workers that share a server come to even
    shares of it. After the peak-sensitive average of Finagle's load balancer.
    """

    def __init__(self) -> None:
        self._s_per_user = 0.0
        self._turn = asyncio.Lock()

    async def asked(
        self,
        ask: Callable[[Sequence[User]], Awaitable[Answer]],
        users: Sequence[User],
        *,
        most: int,
        deadline_s: float,
    ) -> list[Answer]:
        """
        Ask for all *users*, one request after the other, and return the answers.

        Two batches whose requests alternate would both end as late as the second has to, so one
        begins when the other has sent its last request: the server is not left idle in between.

        Args:
            most: Users that a request may have, whatever the pace.
            deadline_s: Of each request. What *ask* raises ends the batch.
        """
        answers: list[Answer] = []
        async with self._turn:
            while len(users) > (at_once := min(most, self.users(deadline_s) or most)):
                answers.append(await self._timed(ask, users[:at_once]))
                users = users[at_once:]
            last = asyncio.create_task(self._timed(ask, users))
        return [*answers, await last]

    async def _timed(
        self, ask: Callable[[Sequence[User]], Awaitable[Answer]], users: Sequence[User]
    ) -> Answer:
        started_s = perf_counter()
        try:
            return await ask(users)
        finally:
            self.took(len(users), perf_counter() - started_s)

    def users(self, deadline_s: float) -> int | None:
        """The most users to ask for at once; None before the first answer."""
        if not self._s_per_user:
            return None
        return max(1, int(SHARE * deadline_s / self._s_per_user))

    def took(self, users: int, seconds: float) -> None:
        """A request for so many users was answered, or given up, after so long."""
        self._s_per_user = max(seconds / max(users, AT_LEAST), FADE * self._s_per_user)
