"""Options of the whole test suite."""

import pytest
from hypothesis import settings

# An example that takes long says that the machine is busy, and nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` records what the pipeline does now; review the diff."""
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/*.expected*"
    )
