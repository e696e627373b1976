"""How many users fit into a request to a ranker, as its own answers tell."""

SHARE = 0.6  # of the deadline that a request may take: the next one may find a longer queue
FADE = 0.9  # of what was slow, with each answer: it is believed at once, and forgotten slowly
AT_LEAST = 16  # users: what fewer take is mostly the request's own


class Pace:
    """
    Bounds requests so that they are answered in time.

    How long a user takes depends on the catalogue and on who else asks. Whoever asks less at a time
    waits less long for the others' requests as well, so workers that share a server come to even
    shares of it. After the peak-sensitive average of Finagle's load balancer.
    """

    def __init__(self) -> None:
        self._s_per_user = 0.0

    def users(self, deadline_s: float) -> int | None:
        """The most users to ask for at once; None before the first answer."""
        if not self._s_per_user:
            return None
        return max(1, int(SHARE * deadline_s / self._s_per_user))

    def took(self, users: int, seconds: float) -> None:
        """A request for so many users was answered, or given up, after so long."""
        self._s_per_user = max(seconds / max(users, AT_LEAST), FADE * self._s_per_user)
