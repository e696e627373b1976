"""``python -m tests.chaos``: a stack under load, killed in every way for minutes, and accounted."""

import signal
import sys
import tempfile
from pathlib import Path

import click

from services.display.wide_console import wide_console
from tests.chaos.faults import FAULTS, drawn
from tests.chaos.generator import Traffic
from tests.chaos.report import save, show
from tests.chaos.run import Plan, run


@click.command()
@click.option("--seed", default=1, show_default=True, help="Draws faults, targets and events.")
@click.option("--minutes", default=5.0, show_default=True, help="Under load.")
@click.option("--rate", default=500.0, show_default=True, help="Events a second.")
@click.option("--workers", default=3, show_default=True)
@click.option("--fault", "faults", multiple=True, type=click.Choice(sorted(FAULTS)),
              help="These, in this order, in place of drawn ones.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path),
              help="Leave data and logs here.")  # fmt: skip
def main(
    seed: int,
    minutes: float,
    rate: float,
    workers: int,
    faults: tuple[str, ...],
    json_file: Path | None,
    keep: Path | None,
) -> None:
    """Break a stack under load; exit with 1 if anything is lost, counted twice or unwell."""
    # Ctrl-C ends everything; so must whoever stops us otherwise.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = wide_console()
    plan = Plan(
        seed=seed,
        faults=iter(faults) if faults else drawn(seed),
        load_s=minutes * 60,
        traffic=Traffic(rate=rate),
        workers=workers,
    )
    with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as scratch:
        data_dir = (keep or Path(scratch)).resolve() / "data"
        with console.status("starting") as status:
            report = run(
                plan,
                data_dir,
                lambda line: console.print(line, highlight=False, soft_wrap=True),
                status.update,
            )
    show(report, console)
    if json_file is not None:
        save(report, json_file)
    sys.exit(1 if report.misses else 0)


if __name__ == "__main__":
    main()
