"""``headrace evaluate`` from the log to the files."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli import main


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Forty visits to a shop of six items, each followed by the next one."""
    file = tmp_path / "events.jsonl"
    rows = [
        {
            "event_id": f"e{visit}-{step}",
            "event_type": "view",
            "event_timestamp": f"2024-01-{1 + visit // 4:02}T{5 * (visit % 4):02}:{step:02}:00Z",
            "user_id": f"u{visit % 10}",
            "item_id": f"i{(visit + step) % 6}",
        }
        for visit in range(40)
        for step in range(4)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def run(*arguments: str | Path) -> Result:
    """The command's result; its own errors only."""
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.mark.parametrize("protocol", ["live", "time-split", "leave-one-out", "cold-items"])
def test_each_protocol_gives_a_table_and_one_object(events: Path, protocol: str) -> None:
    """What a release is compared by."""
    file = events.with_name("result.json")
    options = ["--since", "2024-01-08"] if protocol != "leave-one-out" else []
    share = ["--share", "0.5"] if protocol == "cold-items" else []

    result = run(protocol, events, "--baselines", *options, *share, "--json", file)

    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["protocol"] == protocol
    popularity = next(row for row in found["rows"] if row["method"] == "popularity")
    assert 0 <= popularity["hr@10_low"] <= popularity["hr@10"] <= popularity["hr@10_high"] <= 1
    assert "popularity" in result.output


def test_a_ranker_is_trained_drawn_and_beaten_by_nobody_silently(events: Path) -> None:
    """The whole way: training, judging, the plot."""
    file, plot = events.with_name("result.json"), events.with_name("result.svg")

    result = run("live", events, "--since", "2024-01-08", "--epochs", "1", "--json", file,
                 "--plot", plot)  # fmt: skip

    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())["rows"]
    assert rows[0]["method"] == "ranker"
    assert {"hr@10", "ndcg@10", "coverage@20", "novelty@20"} <= rows[0].keys()
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--since", "2030-01-01"], "nothing to predict"),
        (["--plot", "out.txt"], "must end in"),
        (["--until", "2001-01-01"], "no actions are left"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    events: Path, arguments: list[str], why: str
) -> None:
    """Before anything is trained."""
    result = run("live", events, *arguments)

    assert result.exit_code == 2
    assert why in result.output
    assert "Traceback" not in result.output


def test_a_directory_that_is_not_beauty_is_refused(tmp_path: Path) -> None:
    """It names the files that are looked for."""
    result = run("beauty", tmp_path)

    assert result.exit_code == 2
    assert "sequences.txt" in result.output
