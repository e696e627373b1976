"""
Log lines: one form for ours and the libraries', and no user id in any of them.

What a line says of users it says as ``user_id`` or ``user_ids``. At debug they are written as keyed
hashes: enough to follow one user through the log, useless to whoever has the log alone.
"""

import logging
import secrets
import sys
from collections.abc import MutableMapping
from hashlib import blake2b
from typing import Any, TextIO

import structlog

HASH_BYTES = 8


class HashedUsers:
    """
    A structlog processor in which every user id ends.

    Args:
        key: The same for all processes whose lines are to be compared; empty: a random one.
    """

    def __init__(self, key: str = "") -> None:
        self._key = key.encode()[: blake2b.MAX_KEY_SIZE] or secrets.token_bytes(32)

    def __call__(
        self, logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """``user_id`` becomes ``user``, ``user_ids`` ``users``; above debug both are left out."""
        user_id, user_ids = event.pop("user_id", None), event.pop("user_ids", None)
        if method == "debug":
            if user_id is not None:
                event["user"] = self._hash(user_id)
            if user_ids is not None:
                event["users"] = [self._hash(one) for one in user_ids]
        return event

    def _hash(self, user_id: str) -> str:
        return blake2b(user_id.encode(), key=self._key, digest_size=HASH_BYTES).hexdigest()


def configure_logging(
    format: str, level: str, stream: TextIO | None = None, *, key: str = ""
) -> None:
    """
    Send every log line of the process, the libraries' own too, to *stream* in one form.

    Args:
        format: ``console``, ``json``, or ``auto``: console if *stream* is a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: Standard output by default. A command that prints an answer there passes
            standard error.
        key: Of the hashes that stand for users; see `HashedUsers`.
    """
    stream = stream or sys.stdout
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        HashedUsers(key),
    ]
    # A traceback with its local variables would hold whole events.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if console
        else [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in ("aiokafka", "faust", "feast", "mode"):  # they tell their lives at info
        logging.getLogger(library).setLevel("DEBUG" if level == "debug" else "WARNING")
    # At debug it writes whole requests and answers: events, and the password of a login.
    logging.getLogger("aiokafka.conn").setLevel("WARNING")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
