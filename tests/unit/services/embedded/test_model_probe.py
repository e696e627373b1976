"""What is loaded again, how often, and whose fault it is."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest

from services.embedded import model_probe
from services.embedded.model_probe import LOAD_AGAIN_AFTER_S, ModelProbe
from services.models import control, repository


class Triton:
    """A server whose versions answer as they are told to; counts what is loaded again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.problems: dict[str, str | None] = {"1": None, "2": None}
        self.restarted: list[Collection[str]] = []
        self.now_s = 1000.0
        self.folder = folder
        folder.mkdir()
        (folder / "config.pbtxt").touch()
        monkeypatch.setattr(control, "ready_versions", self.ready_versions)
        monkeypatch.setattr(control, "restart", self.restart)
        monkeypatch.setattr(control, "load", self.load)
        monkeypatch.setattr(model_probe.time, "monotonic", lambda: self.now_s)
        self.probe = ModelProbe("triton:8001", folder, self.ask)

    async def ready_versions(self, address: str, model: str) -> tuple[str, ...]:
        return tuple(self.problems)

    async def ask(self, address: str, folder: Path, version: str) -> str | None:
        return self.problems[version]

    async def restart(
        self, address: str, model: str, versions: Collection[str], *, timeout_s: float
    ) -> None:
        self.restarted.append(sorted(versions))

    async def load(self, address: str, model: str, *, timeout_s: float) -> None:
        self.restarted.append("all")

    async def asked_after(self, seconds: float) -> str | None:
        self.now_s += seconds
        answer = await self.probe.problem()
        await asyncio.sleep(0)  # what it has begun ends
        return answer


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Triton:
    return Triton(monkeypatch, tmp_path / "ranker")


async def test_what_answers_is_left_alone(triton: Triton) -> None:
    """The usual case, every two seconds."""
    assert await triton.asked_after(2) is None
    assert triton.restarted == []


async def test_only_the_version_that_fails_is_started_anew(triton: Triton) -> None:
    """The other one serves people at this moment."""
    triton.problems["2"] = "its scores are nonsense"

    assert "version 2 answers wrongly" in str(await triton.asked_after(2))
    assert triton.restarted == [["2"]]


async def test_where_none_answers_all_are_loaded(triton: Triton) -> None:
    """A server that has been started again knows none of them."""
    triton.problems = {"1": "nonsense"}
    await triton.asked_after(2)

    assert triton.restarted == ["all"]


async def test_a_bad_version_does_not_end_the_server_and_is_tried_ever_less(
    triton: Triton,
) -> None:
    """A failing part is killed after a while: a canary must not do that to the one that serves."""
    triton.problems["2"] = "its scores are nonsense"
    await triton.asked_after(2)

    assert await triton.asked_after(2) is None
    await triton.asked_after(LOAD_AGAIN_AFTER_S)
    await triton.asked_after(LOAD_AGAIN_AFTER_S)  # not yet: twice as long now
    assert len(triton.restarted) == 2
    await triton.asked_after(LOAD_AGAIN_AFTER_S)
    assert len(triton.restarted) == 3

    triton.problems["2"] = None
    assert await triton.asked_after(2) is None
    triton.problems["2"] = "again"
    await triton.asked_after(2)
    assert len(triton.restarted) == 4


async def test_a_version_on_trial_is_left_to_the_gate(triton: Triton) -> None:
    """Two loads of one model that meet can hang Triton; and the bad one is about to go."""
    triton.problems["2"] = "its scores are nonsense"
    with repository.locked(triton.folder):
        assert await triton.asked_after(2) is None
        assert triton.restarted == []

    await triton.asked_after(2)
    assert triton.restarted == [["2"]]
    with repository.locked(triton.folder, patience_s=0):
        pass  # it was given back
