"""The trainer's schedule: what it runs, when, and what it makes of how that ended."""

import json
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.errors import CommandFailed
from services.settings import TrainerSettings
from services.telemetry import TrainerMetrics
from services.trainer.main import KEPT, LAST_RUN, Said, Trainer

NOW = datetime(2026, 1, 31, 3, 0, tzinfo=UTC)


class FakeHeadrace:
    """Writes a version when told to train, and deploys or refuses it."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.ran: list[list[str]] = []
        self.after = lambda: None

    def __call__(self, arguments: Sequence[str]) -> Said:
        self.ran.append(list(arguments))
        code = self.codes.get(arguments[0], 0)
        if arguments[0] == "train" and not code:
            out = Path(arguments[arguments.index("--out") + 1])
            out.mkdir()
            arrays = ("item_keys", "event_types", "ages_s", "price_buckets", "context")
            golden = {name: [] for name in arrays}
            manifest = {
                "format": 1,
                "model": "ranker",
                "created_at": "",
                "vocabulary_size": 1,
                "popular": [],
                "metrics": {"ranker": {"hr_at_20": 0.5}},
                "sha256": {},
                "golden": {**golden, "expected": {"item_keys": [], "scores": []}},
            }
            (out / "manifest.json").write_text(json.dumps(manifest))
        self.after()
        return Said(code, "the reason")


class Place:
    """A trainer with a fake command, in a directory of its own."""

    def __init__(self, data_dir: Path, *, serving: bool = True, **codes: int) -> None:
        self.settings = TrainerSettings(data_dir=data_dir, prefix="p-", trainer_every_s=3600)
        self.registry = CollectorRegistry()
        self.headrace = FakeHeadrace(**codes)
        metrics = TrainerMetrics(self.registry)
        self.trainer = Trainer(self.settings, metrics, self.headrace, is_serving=lambda: serving)
        self.directory = data_dir / "trainer"
        self.directory.mkdir(exist_ok=True)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"headrace_trainer_{name}", labels)


def test_a_run_goes_on_from_what_serves_and_deploys(tmp_path: Path):
    """The archive of the prefixed topic, the newest days, and the same gate as by hand."""
    place = Place(tmp_path)

    outcome = place.trainer.train_once(NOW)

    train, deploy = place.headrace.ran
    out = train[train.index("--out") + 1]
    assert outcome == "deployed"
    assert train[:2] == ["train", str(tmp_path / "archive" / "p-events.v1")]
    assert train[train.index("--continue") + 1] == "serving"
    assert train[train.index("--from") + 1] == (NOW - timedelta(days=90)).isoformat()
    assert deploy == ["model", "deploy", out]
    assert place.metric("quality", metric="hr_at_20") == 0.5


def test_the_first_version_is_trained_from_the_beginning(tmp_path: Path):
    """There is nothing to go on from."""
    place = Place(tmp_path, serving=False)

    place.trainer.train_once(NOW)

    assert "--continue" not in place.headrace.ran[0]


@pytest.mark.parametrize(
    ("codes", "outcome"), [({"train": 2}, "not_trained"), ({"model": 2}, "refused")]
)
def test_a_run_that_fails_is_counted_and_the_next_one_comes(
    tmp_path: Path, codes: dict[str, int], outcome: str
):
    """A quiet night, or a version that the gate refuses: neither stops the service."""
    place = Place(tmp_path, **codes)
    stop = threading.Event()
    place.trainer.due_in_s = lambda: 0.0  # type: ignore[method-assign]
    place.headrace.after = lambda: stop.set() if len(place.headrace.ran) > 4 else None

    place.trainer.run(stop)

    assert place.metric("runs_total", outcome=outcome) >= 2
    assert place.metric("runs_total", outcome="deployed") == 0


def test_a_kafka_that_is_away_costs_one_run(tmp_path: Path):
    """The service asks again when the next run is due."""
    place = Place(tmp_path)
    stop = threading.Event()

    def away() -> bool:
        stop.set()
        raise CommandFailed("no Kafka")

    place.trainer._is_serving = away

    place.trainer.run(stop)

    assert place.headrace.ran == []
    assert 590 < place.trainer.due_in_s() <= 600  # and not tomorrow


def test_a_restart_does_not_train_again_before_it_is_due(tmp_path: Path):
    """A crash loop must not become a training loop."""
    place = Place(tmp_path)
    assert place.trainer.due_in_s() == 0.0

    (place.directory / LAST_RUN).touch()
    hour_ago = time.time() - 3600
    assert 3590 < place.trainer.due_in_s() <= 3600
    os.utime(place.directory / LAST_RUN, (hour_ago, hour_ago))

    assert place.trainer.due_in_s() <= 0.0


def test_old_versions_and_ended_runs_are_cleared_away(tmp_path: Path):
    """A year of nights would fill the disk."""
    place = Place(tmp_path)
    (place.directory / "20200101T000000000000Z.training").mkdir()

    for night in range(KEPT + 2):
        place.trainer.train_once(NOW + timedelta(days=night))

    assert sorted(path.name[:8] for path in place.directory.iterdir()) == [
        f"{NOW + timedelta(days=night):%Y%m%d}" for night in range(2, KEPT + 2)
    ]
