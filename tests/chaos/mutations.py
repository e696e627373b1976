"""
``python -m tests.chaos.mutations``: the guarantee broken on purpose, one rule at a time.

Each mutation is a small change of the source in a copy of the tree. What should notice is run on
the copy, quickest first, until something fails, and fails again by itself: that has caught it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from pytest import ExitCode
from rich.console import Console
from rich.table import Table

from services.display.wide_console import wide_console

ROOT = Path(__file__).parents[2]
UNIT = ("tests/unit/stream",)
GUARANTEE = ("tests/integration/test_features.py", "tests/integration/test_worker_guarantee.py")
CHAOS = ("tests/integration/test_chaos.py",)
PROOFS = {"unit tests": UNIT, "guarantee tests": GUARANTEE, "short chaos": CHAOS}
PROOF_WITHIN_S = 900
NOT_CAUGHT = "passes"


@dataclass(frozen=True)
class Edit:
    """Replace *original*, which is there exactly once, in a file."""

    path: str
    original: str
    mutated: str


@dataclass(frozen=True)
class Mutation:
    """One rule that no longer holds."""

    rule: str
    edits: Sequence[Edit]


BEGIN_AT_COMMIT = Edit(
    "stream/transport.py",
    "start = min(marked, marked if committed[tp] is None else committed[tp])",
    "start = marked if committed[tp] is None else committed[tp]",
)
MUTATIONS = (
    Mutation(
        "rows are replaced without comparing",
        [
            Edit(
                "features/replace.lua",
                "  if stored == expected then return nil, stored end",
                "  if true then return nil, stored end",
            )
        ],
    ),
    Mutation(
        "records of an old generation are handled",
        [
            Edit(
                "stream/consume.py",
                "        if generation != self._app.consumer_generation_id:\n            return\n",
                "",
            ),
            Edit(
                "stream/consume.py",
                "        if self._generation != self._app.consumer_generation_id:\n"
                "            self._waiting.clear()\n",
                "",
            ),
            Edit(
                "stream/transport.py",
                "if generation != self.app.consumer_generation_id or not self.flow_active:",
                "if not self.flow_active:",
            ),
        ],
    ),
    Mutation(
        # Either alone: commits are hints as long as the mark decides, which is what they are for.
        "offsets are committed before the effects, and a worker begins there",
        [
            Edit(
                "stream/consume.py",
                "        offsets = await self._handle(records)\n",
                "        early = {TP(self._topic, r.partition): r.offset + 1 for r in records}\n"
                "        await self._app.consumer._commit_offsets(early)\n"
                "        offsets = await self._handle(records)\n",
            ),
            BEGIN_AT_COMMIT,
        ],
    ),
    Mutation(
        "the mark is written before the slates are published",
        [
            Edit(
                "stream/recommend.py",
                '        with stage("publish"):\n',
                "        await pipeline.store.write_marks("
                "pipeline.marks.replacements(folded.marks), kept)\n"
                "        pipeline.marks.wrote(folded.marks)\n"
                '        with stage("publish"):\n',
            ),
            Edit(
                "stream/recommend.py",
                '        with stage("mark"):\n'
                "            await pipeline.store.write_marks("
                "pipeline.marks.replacements(folded.marks), kept)\n"
                "            pipeline.marks.wrote(folded.marks)\n",
                "",
            ),
        ],
    ),
    Mutation(
        "the mark is not written",
        [
            Edit(
                "stream/recommend.py",
                "            await pipeline.store.write_marks("
                "pipeline.marks.replacements(folded.marks), kept)\n"
                "            pipeline.marks.wrote(folded.marks)\n",
                "            pass\n",
            )
        ],
    ),
    Mutation(
        "a mark is written whether its rows are there or not",
        [
            Edit(
                "stream/recommend.py",
                "pipeline.marks.replacements(folded.marks), kept)\n",
                "pipeline.marks.replacements(folded.marks), ())\n",
            )
        ],
    ),
    Mutation(
        "two batches have slates out before either's mark is written",
        [
            Edit(
                "stream/recommend.py",
                "    async with pipeline.settling:\n",
                "    async with asyncio.Lock():\n",
            )
        ],
    ),
    Mutation(
        "marks are not checked with every batch",
        [
            Edit(
                "stream/marks.py",
                "            if self._last.get(partition) != mark.applied:\n",
                "            self._last[partition] = mark.applied\n            if False:\n",
            )
        ],
    ),
    Mutation(
        "a worker begins where it has committed, whatever the mark says",
        [
            BEGIN_AT_COMMIT,
        ],
    ),
    Mutation(
        "rows are written before their signals",
        [
            Edit(
                "stream/recommend.py",
                '    with stage("signals"):\n'
                "        await pipeline.publish(signal_records(folded.deltas))\n",
                "",
            ),
            Edit(
                "stream/recommend.py",
                "        return await pipeline.store.write_rows(\n",
                "        kept = await pipeline.store.write_rows(\n",
            ),
            Edit(
                "stream/recommend.py",
                "            pipeline.marks.expected(folded.marks),\n        )\n",
                "            pipeline.marks.expected(folded.marks),\n        )\n"
                '    with stage("signals"):\n'
                "        await pipeline.publish(signal_records(folded.deltas))\n"
                "    return kept\n",
            ),
        ],
    ),
)


def mutate(mutation: Mutation, tree: Path) -> None:
    """
    Make the edits in a copy of the tree.

    Raises:
        click.ClickException: If the code to change is not there: this table is out of date.
    """
    for edit in mutation.edits:
        path = tree / edit.path
        source = path.read_text()
        if source.count(edit.original) != 1:
            raise click.ClickException(
                f"{mutation.rule}: {edit.path} no longer has what is changed once: "
                f"{edit.original.strip().splitlines()[0]}"
            )
        path.write_text(source.replace(edit.original, edit.mutated))


def copy_tree(tree: Path) -> None:
    """The files that git has, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)


def failures(proof: Sequence[str], tree: Path) -> list[str]:
    """The tests of *proof* that fail on *tree*, at most one, as pytest names them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *proof]
    done = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=PROOF_WITHIN_S,
        check=False,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode not in (ExitCode.OK, ExitCode.NO_TESTS_COLLECTED) and not failed:
        raise click.ClickException(f"pytest did not run: {(done.stdout + done.stderr)[-500:]}")
    return failed


def noticed_by(proof: Sequence[str], tree: Path) -> str:
    """The first test of *proof* that fails on *tree* twice: once may be for another reason."""
    by_chance: list[str] = []
    while failed := failures([*proof, *by_chance], tree):
        if failures(failed, tree):
            return failed[0].rpartition("::")[2]
        by_chance += ["--deselect", failed[0]]
    return NOT_CAUGHT


@click.command()
@click.option("--only", type=click.IntRange(1, len(MUTATIONS)), multiple=True, help="By number.")
@click.option("--proof", "names", type=click.Choice(list(PROOFS)), multiple=True,
              help="These in place of all.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Go on after the first that has caught it.")
def main(only: tuple[int, ...], names: tuple[str, ...], everything: bool) -> None:
    """Break each rule, and say what notices; exit with 1 if nothing does."""
    console = wide_console()
    table = Table("broken rule", *PROOFS)
    uncaught = 0
    for number, mutation in enumerate(MUTATIONS, start=1):
        if only and number not in only:
            continue
        found = _found(mutation, names or tuple(PROOFS), everything, console)
        table.add_row(mutation.rule, *(found.get(name, "not run") for name in PROOFS))
        uncaught += all(cell == NOT_CAUGHT for cell in found.values())
    console.print(table)
    sys.exit(1 if uncaught else 0)


def _found(
    mutation: Mutation, names: Sequence[str], everything: bool, console: Console
) -> dict[str, str]:
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-mutation-") as scratch:
        tree = Path(scratch)
        copy_tree(tree)
        mutate(mutation, tree)
        for name in names:
            with console.status(f"{mutation.rule}: {name}"):
                found[name] = noticed_by(PROOFS[name], tree)
            console.print(
                f"{mutation.rule}: {name}: {found[name]}", highlight=False, soft_wrap=True
            )
            if found[name] != NOT_CAUGHT and not everything:
                return found
    return found


if __name__ == "__main__":
    main()
