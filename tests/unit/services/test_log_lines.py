"""Logs that a machine can read, and that name no user."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.log_lines import configure_logging

USER = "ada@example.com"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_our_lines_and_the_libraries_lines_are_json_of_the_same_form() -> None:
    """One parser reads the whole log of a process."""
    out = io.StringIO()
    configure_logging("auto", "info", out)

    structlog.get_logger("ours").info("batch_settled", events=3)
    logging.getLogger("theirs").warning("lost %s", "connection")

    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["events"], ours["level"]) == ("batch_settled", 3, "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == (
        "lost connection",
        "theirs",
        "warning",
    )
    assert ours["timestamp"].endswith("Z")


def test_lines_below_the_level_are_not_written() -> None:
    """Debug lines carry hashed users: they appear only when asked for."""
    out = io.StringIO()
    configure_logging("json", "info", out)

    structlog.get_logger().debug("slate_published")

    assert out.getvalue() == ""


def lines(level: str, key: str = "") -> list[dict[str, object]]:
    """What is written of one debug and one warning line about `USER`."""
    out = io.StringIO()
    configure_logging("json", level, out, key=key)
    log = structlog.get_logger()
    log.debug("slate_published", user_id=USER, user_ids=[USER])
    log.warning("slate_late", user_id=USER)
    assert USER not in out.getvalue()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_user_is_a_hash_at_debug_and_nothing_above() -> None:
    """Whoever looks into a problem can follow one user; whoever keeps the logs knows none."""
    debug, warning = lines("debug")

    assert debug["users"] == [debug["user"]]
    assert not {"user", "user_id"} & warning.keys()


def test_hashes_agree_between_processes_of_one_key_only() -> None:
    """A random key by default: without it nobody can hash a list of ids and compare."""
    assert lines("debug", key="k")[0]["user"] == lines("debug", key="k")[0]["user"]
    assert lines("debug")[0]["user"] != lines("debug")[0]["user"]


def test_the_library_that_writes_whole_records_is_quiet_at_debug() -> None:
    """Kafka's answers hold every event, and the first request of a login its password."""
    out = io.StringIO()
    configure_logging("json", "debug", out)

    logging.getLogger("aiokafka.conn").debug("Response: %s", USER)

    assert out.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    """They would be events and rows, in the log of every crash."""
    out = io.StringIO()
    configure_logging(form, "info", out)
    row = {"user_id": USER}

    try:
        row["missing"]
    except KeyError as error:
        structlog.get_logger().critical("worker_stopped", exc_info=error)

    assert "KeyError" in out.getvalue()
    assert USER not in out.getvalue()
