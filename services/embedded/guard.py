"""
Ends what ``headrace up`` started if ``up`` itself is killed and can do nothing any more.

Run as a script of its own, with only the standard library, so that it starts in milliseconds and
is small. It reads ``+<process group>`` and ``-<process group>`` lines from standard input, a pipe
that only ``up`` holds open: the end of the file means that ``up`` is gone. It also inherits the
lock on the data directory, so that the next ``up`` waits until the last process here has ended.
"""

import os
import signal
import sys
import time

GRACE_S = 5.0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    end(groups)


def end(groups: set[int]) -> None:
    """SIGTERM to every group, and SIGKILL to those still there when the grace has passed."""
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if _signal(group, 0)}
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Whether the group was there to be signalled."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
