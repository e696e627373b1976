"""``headrace up`` and ``headrace down``: the embedded stack, in the foreground."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click
import psutil
from rich.console import Console

from services.connection import connect, running_stack
from services.embedded import display as displays
from services.embedded import stack as stacks
from services.errors import CommandFailed
from services.log_lines import configure_logging
from services.settings import Settings, WorkerSettings

PORT = click.IntRange(1, 65535)
DOWN_WITHIN_S = 60
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the stack's state lies. [default: HEADRACE_DATA_DIR]",
)


@click.command()
@DATA_DIR
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True)
@click.option("--archiver/--no-archiver", default=True, help="Keep the event log as Parquet.")
@click.option("--trainer", is_flag=True, help="Train on a schedule: see HEADRACE_TRAINER_*.")
@click.option("--secure", is_flag=True, help="Kafka and Redis want a login, and speak TLS.")
@click.option(
    "--brief", is_flag=True, help="To run for minutes: Kafka starts sooner, stays slower."
)
@click.option("--kafka-port", type=PORT, help="A free one if not given; the same for the others.")
@click.option("--redis-port", type=PORT)
@click.option("--triton-port", type=PORT, help="Triton's gRPC port.")
@click.option("--triton-http-port", type=PORT)
@click.option("--for", "for_s", type=click.FloatRange(min=0), help="End after so many seconds.")
def up(
    data_dir: Path | None,
    workers: int,
    archiver: bool,
    trainer: bool,
    secure: bool,
    brief: bool,
    kafka_port: int | None,
    redis_port: int | None,
    triton_port: int | None,
    triton_http_port: int | None,
    for_s: float | None,
) -> None:
    """
    Run Kafka, Redis, Triton, workers and archiver on this machine, until Ctrl-C.

    A part that crashes is started again, and its row says why. Nothing is left running, even when
    this process is killed. State stays in the data directory, logs in its logs/. While it runs,
    the other commands find its servers by themselves.

    A server whose address you have set (HEADRACE_KAFKA_SERVERS, HEADRACE_REDIS_ADDRESS,
    HEADRACE_TRITON_ADDRESS) is yours: it is used and not started.

    With --secure, certificates and passwords are made at the first start and kept in the data
    directory's security/; the other commands find them as they find the servers.
    """
    given = {
        "kafka": kafka_port,
        "redis": redis_port,
        "triton": triton_port,
        "triton-http": triton_http_port,
    }
    options = stacks.Options(
        workers=workers,
        archiver=archiver,
        trainer=trainer,
        secure=secure,
        brief=brief,
        ports={name: port for name, port in given.items() if port is not None},
    )
    settings = connect(WorkerSettings, data_dir=data_dir)
    configure_logging(settings.log_format, settings.log_level)
    asyncio.run(_up(settings, options, for_s))


async def _up(settings: WorkerSettings, options: stacks.Options, for_s: float | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    shown = displays.display(Console())
    try:
        async with stacks.running(settings, options, shown.show) as stack:
            stopping = asyncio.create_task(stop.wait())
            reporting = asyncio.create_task(_report(stack, shown, settings))
            broken = asyncio.create_task(stack.failed())
            await asyncio.wait(
                {stopping, broken}, timeout=for_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in (stopping, reporting):
                task.cancel()
            if broken.done():
                broken.result()
            broken.cancel()
            shown.say("Stopping …")
    finally:
        shown.close()


async def _report(stack: stacks.Stack, shown: displays.Display, settings: Settings) -> None:
    total_s = await stack.all_ready()
    shown.say(displays.shares(stack.statuses, total_s))
    shown.say(f"Logs: {settings.data_dir / 'logs'}. Stop with Ctrl-C or `headrace down`.")


@click.command()
@DATA_DIR
def down(data_dir: Path | None) -> None:
    """Stop the running stack of a data directory, gracefully."""
    settings = connect(Settings, data_dir=data_dir)
    running = running_stack(settings.data_dir)
    if running is None:
        click.echo(f"Nothing runs on {settings.data_dir}.")
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(running["pid"])
        process.terminate()
        try:
            process.wait(DOWN_WITHIN_S)
        except psutil.TimeoutExpired:
            raise CommandFailed(
                f"`headrace up` (pid {process.pid}) has not ended in {DOWN_WITHIN_S} s; its logs "
                f"are in {settings.data_dir / 'logs'}. `kill -9 {process.pid}` ends all of it."
            ) from None
    click.echo("Stopped.")
