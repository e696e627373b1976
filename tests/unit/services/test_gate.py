"""What a version must be before anybody sees it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.models import control, gate
from services.models.gate import items_in
from services.models.proof import Limits, check_coverage, check_quality, prove
from services.models.serving import Serving
from services.models.versions import BadVersion, Manifest, nonsense
from stream.keys import item_key
from stream.ranking import Ranked
from tests.tiny_model import build_tiny_version

KNOWN = [f"i{number}" for number in range(10)]
ANSWER = Ranked(np.array([[1, 2, 3]]), np.array([[3, 2, 1]], np.float32))


def a_manifest(**metrics: Any) -> Manifest:
    return Manifest(
        model="ranker",
        created_at="2026-01-01",
        vocabulary_size=10,
        popular=(),
        metrics=metrics,
        sha256={},
        golden_inputs={"item_keys": np.array([[0, 7]])},
        golden_answer=ANSWER,
    )


@pytest.fixture
def version(tmp_path: Path) -> Path:
    keys = np.array(sorted(map(item_key, KNOWN)), np.int64)
    save_file({"item_keys": keys}, tmp_path / "items.safetensors")
    return tmp_path


def test_a_vocabulary_is_measured_by_the_catalogue_of_today(version: Path) -> None:
    """What it knows beyond that is of no use."""
    assert check_coverage(version, frozenset(KNOWN[:4]), Limits()) == 1.0
    assert check_coverage(version, frozenset([*KNOWN, *"abcdefghij"]), Limits()) == 0.5
    with pytest.raises(BadVersion, match="knows 48% of the 21 items"):
        check_coverage(version, frozenset([*KNOWN, *"abcdefghijk"]), Limits())


@pytest.mark.parametrize(("new", "is_refused"), [(0.6, False), (0.58, False), (0.57, True)])
def test_a_worse_version_is_refused_beyond_the_margin(new: float, is_refused: bool) -> None:
    """Chance moves the measure a little from training to training."""
    new_one, serving = a_manifest(ranker={"hr_at_20": new}), a_manifest(ranker={"hr_at_20": 0.6})
    if is_refused:
        with pytest.raises(BadVersion, match=r"0\.5700.*0\.6000"):
            check_quality(new_one, serving, Limits())
    else:
        assert "0.6000" in check_quality(new_one, serving, Limits())


@pytest.mark.parametrize(
    "metrics",
    [{}, {"ranker": "good"}, {"ranker": {"hr_at_20": "high"}},
     {"ranker": {"hr_at_20": 0.1}, "protocol": "of my own"}],
)  # fmt: skip
def test_only_like_is_compared_with_like(metrics: dict[str, Any]) -> None:
    """Another protocol's .1 may be better than this one's .6."""
    serving = a_manifest(ranker={"hr_at_20": 0.6}, protocol="ours")

    assert "not compared" in check_quality(a_manifest(**metrics), serving, Limits())


@pytest.mark.parametrize(
    ("scores", "reason"),
    [([[1, np.nan, 0]], "not finite"), ([[1, np.inf, 0]], "not finite"), ([[2, 2, 2]], "constant")],
)
def test_scores_that_say_nothing_are_nonsense(scores: Any, reason: str) -> None:
    """They have the right shape, and would make the same list for everybody."""
    answer = Ranked(ANSWER.item_keys, np.array(scores, np.float32))

    assert reason in str(nonsense(answer))
    assert nonsense(ANSWER) is None


@pytest.mark.parametrize(
    ("answer", "seconds", "reason"),
    [
        (ANSWER, 0.2, "takes 200 ms, and 100 are allowed"),
        (dataclasses.replace(ANSWER, item_keys=ANSWER.item_keys + 7), 0.01, "only 0%"),
        (dataclasses.replace(ANSWER, scores=ANSWER.scores + 5), 0.01, "scores"),
    ],
)
async def test_a_version_is_proved_by_its_golden_batch(
    monkeypatch: pytest.MonkeyPatch, answer: Ranked, seconds: float, reason: str
) -> None:
    """Loading is no proof."""

    async def timed_answers(*_: Any, times: int, **__: Any) -> list[tuple[Ranked, float]]:
        # One slow answer among twenty is the machine's doing.
        return [(answer, 1.0), *[(answer, seconds)] * (times - 1)]

    monkeypatch.setattr(control, "timed_answers", timed_answers)
    with pytest.raises(BadVersion, match=reason):
        await prove("triton:8001", "ranker", "1", a_manifest(), Limits())


async def test_a_right_and_quick_answer_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median is what is reported."""

    async def timed_answers(*_: Any, times: int, **__: Any) -> list[tuple[Ranked, float]]:
        return [(ANSWER, 0.004)] * times

    monkeypatch.setattr(control, "timed_answers", timed_answers)
    assert await prove("triton:8001", "ranker", "1", a_manifest(), Limits()) == pytest.approx(4)


def test_without_kafka_the_files_are_checked_and_the_rest_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the machine where a model is trained there may be none of it."""

    def no_kafka(*_: Any) -> Any:
        raise CommandFailed("no Kafka")

    monkeypatch.setattr(gate, "live_items", no_kafka)
    monkeypatch.setattr(Serving, "state", no_kafka)
    directory = build_tiny_version(tmp_path / "version", KNOWN)
    serving = Serving(tmp_path / "ranker", "triton:8001", KafkaConnection("kafka:9092"), "")
    said: list[str] = []

    gate.check(directory, serving, Limits(), say=said.append)
    assert sum("Kafka cannot be reached" in line for line in said) == 2

    gate.check(directory, serving, Limits(items=frozenset(KNOWN)), say=said.append)
    assert "Vocabulary: it knows 100% of 10 items." in said


def test_a_version_of_another_model_is_refused(tmp_path: Path) -> None:
    """Its answers would be served under the wrong name."""
    directory = build_tiny_version(tmp_path / "version", KNOWN)
    serving = Serving(tmp_path / "reranker", "triton:8001", KafkaConnection("kafka:9092"), "")

    with pytest.raises(BadVersion, match="'ranker', not a 'reranker'"):
        gate.check(directory, serving, Limits(), say=lambda line: None)


def test_a_catalogue_may_be_a_file(tmp_path: Path) -> None:
    """Where a version is checked far from Kafka."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\na,A\nb,B\n")

    assert items_in(path) == {"a", "b"}
