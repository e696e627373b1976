"""Feast without the seconds that its import spends on what we never call."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest import mock

T = TypeVar("T")


def _unchanged(target: T) -> T:
    return target


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Make ``import module`` fail, unless it is there already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # the language's way to say: no such module
    try:
        yield
    finally:
        del sys.modules[module]


def import_feast() -> None:
    """
    Import Feast in a third of the time; a later ``import feast`` costs nothing.

    Feast imports torch for one output format of offline queries and goes on without it, and it
    has typeguard rewrite its constructors, which mypy checks for us. It also puts the process into
    Prometheus' multi-process mode, where a value is a file and a label cannot be removed.
    """
    if "feast" in sys.modules:
        return
    importlib.import_module("prometheus_client")  # it decides once, by the environment
    with (
        mock.patch.dict(os.environ),
        _absent("torch"),
        mock.patch("typeguard.typechecked", _unchanged),
    ):
        importlib.import_module("feast")
        importlib.import_module("feast.metrics")
