"""``headrace train`` as people meet it: interrupted, resumed, and given nonsense."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from services.cli import main
from services.display import progress
from services.training.checkpoints import Checkpoint

DAY_MS = 86_400_000
FEW = ("--epochs", "2", "--dim", "16", "--layers", "1", "--holdout", "20%")
MAP = ("--map", "event_timestamp=event_timestamp:ms")


def a_walk(path: Path, **columns: list[Any]) -> Path:
    """Forty users who walk through thirty items; *columns* replace some."""
    rows = [(user, step) for user in range(40) for step in range(10)]
    table = {
        "event_type": ["click"] * len(rows),
        "event_timestamp": [DAY_MS * 17_000 + step * 60_000 + user for user, step in rows],
        "user_id": [f"u{user}" for user, _ in rows],
        "item_id": [f"i{(user + step) % 30}" for user, step in rows],
        **columns,
    }
    pq.write_table(pa.table(table), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def weights(version: Path) -> dict[str, Any]:
    return {k: v.tolist() for k, v in load_file(version / "model.safetensors").items()}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_walk(tmp_path_factory.mktemp("log") / "walk.parquet")


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "version"
    assert run(log, *MAP, *FEW, "--out", out).exit_code == 0
    return out


def test_an_interrupted_run_is_resumed_to_the_same_version(
    log: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C in the ninth hour must not cost nine hours."""
    out = tmp_path / "version"
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)

    def interrupt(self: object, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(progress._Lines, "__call__", interrupt)
        first = run(log, *MAP, *FEW, "--out", out)
    again = run(log, *MAP, *FEW, "--out", out)
    otherwise = run(log, *MAP, *FEW, "--out", out, "--resume", "--until", "2030-01-01")
    resumed = run(log, *MAP, *FEW, "--out", out, "--resume")

    assert first.exit_code == 2 and f"--resume --out {out}" in first.stderr
    assert again.exit_code == 2 and "holds an unfinished run" in again.stderr
    assert otherwise.exit_code == 2 and "begun with another --until" in otherwise.stderr
    assert resumed.exit_code == 0, resumed.output
    assert weights(out) == weights(whole)
    assert not out.with_name("version.training").exists()


def test_the_catalogue_says_which_items_and_what_their_texts_are(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only items of the catalogue, only events before a date; texts go into the version."""
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    catalogue = tmp_path / "items.csv"
    catalogue.write_text("item_id,name\n" + "".join(f"i{n},hat number {n}\n" for n in range(9)))
    out = tmp_path / "version"
    asked = (log, *MAP, *FEW, "--items", catalogue, "--until", "2016-07-18T00:05:00Z", "--out", out)

    unnamed = run(*asked)
    done = run(*asked, "--map-item", "title=name")

    assert unnamed.exit_code == 2 and "--map-item title=NAME" in unnamed.stderr
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["vocabulary_size"] == 9
    assert manifest["data_range"][1] < "2016-07-18T00:05"
    assert json.loads((out / "config.json").read_text())["text_dim"] == 384


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"event_timestamp": [float("nan")] * 400}, "a finite number of ms"),
        ({"price": [float("inf")] * 400}, "price must be finite"),
        ({"price": ["dear"] * 400}, "price must be a number"),
        ({"price": [[1.0]] * 400}, "price must be a number"),
        ({"user_id": [None] + ["u"] * 399}, "user_id is empty in 1 of 400 rows"),
        ({"event_type": ["impression"] * 400}, "no actions on items"),
        ({"item_id": [f"i{n}" for n in range(400)], "user_id": [str(n) for n in range(400)]},
         "nothing to learn from"),
    ],
)  # fmt: skip
def test_bad_columns_are_named_in_one_line(tmp_path: Path, columns: dict[str, Any], complaint: str):
    """Exit code 2, no traceback, and nothing left behind."""
    path = a_walk(tmp_path / "log.parquet", **columns)

    result = run(path, *MAP, *FEW, "--out", tmp_path / "version")

    assert result.exit_code == 2
    assert complaint in result.stderr and "Traceback" not in result.output
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix == ".training") == []


def test_a_damaged_file_is_named_in_one_line(tmp_path: Path):
    """Half a download has a directory that ends in the middle, or no end at all."""
    path = a_walk(tmp_path / "log.parquet")
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], b"", whole[:40] + b"\xff" * 400 + whole[440:]):
        path.write_bytes(damaged)

        result = run(path, *MAP, *FEW, "--out", tmp_path / "version")

        assert result.exit_code == 2
        assert str(path) in result.stderr and result.stderr.strip().count("\n") == 0


def test_a_version_is_gone_on_from(log: Path, whole: Path, tmp_path: Path):
    """`--continue`: the vocabulary grows, the choices of the version stay."""
    newer = a_walk(
        tmp_path / "newer.parquet",
        item_id=[f"i{(user + step) % 35}" for user in range(40) for step in range(10)],
    )

    done = run(newer, *MAP, "--continue", whole, "--out", tmp_path / "version")
    elsewhere = run(newer, *MAP, "--continue", tmp_path, "--out", tmp_path / "another")

    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "version" / "manifest.json").read_text())
    assert manifest["vocabulary_size"] == 35
    assert manifest["options"]["dim"] == 16
    assert manifest["metrics"]["targets"] > 0
    assert elsewhere.exit_code == 2 and "cannot be gone on from" in elsewhere.stderr
