"""Options of the whole test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` records what the pipeline does now; review the diff."""
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/*.expected*"
    )
