"""The whole embedded stack: which parts, where, and as one thing to start and stop."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.embedded import install, kafka, ports, redis, state, triton, workers
from services.embedded.part import Part, Status
from services.embedded.process import Guard
from services.embedded.security import Security
from services.embedded.supervisor import Supervisor
from services.errors import CommandFailed
from services.settings import WorkerSettings

# The setting that names each server's address. One that is set means: the user's own server.
ADDRESS_SETTINGS = {
    "kafka": "kafka_servers",
    "redis": "redis_address",
    "triton": "triton_address",
}


@dataclass(frozen=True)
class Options:
    """What `headrace up` was asked for. A port of 0 is: the last run's, else a free one."""

    workers: int = 1
    archiver: bool = True
    trainer: bool = False
    secure: bool = False  # Kafka and Redis want a login, over TLS
    brief: bool = False  # it is to run for minutes: a quick start, and a slower Kafka
    ports: Mapping[str, int] = field(default_factory=dict)


class Stack:
    """A running stack."""

    def __init__(self, supervisor: Supervisor, external: Mapping[str, Status]) -> None:
        self._supervisor = supervisor
        self._external = external

    @property
    def statuses(self) -> dict[str, Status]:
        """Every part by name, in the order in which they are shown."""
        return {**self._external, **self._supervisor.statuses}

    async def all_ready(self) -> float:
        """Wait until every part has been ready once; the seconds since the start."""
        return await self._supervisor.all_ready()

    async def failed(self) -> None:
        """Waits for ever; raises if the supervision itself breaks."""
        await self._supervisor.failed()


@contextlib.asynccontextmanager
async def running(
    settings: WorkerSettings, options: Options, changed: Callable[[dict[str, Status]], None]
) -> AsyncIterator[Stack]:
    """
    Start the stack, and end all of it on leaving, whatever happens.

    Args:
        settings: Its data directory and prefix count, and addresses that were set.
        changed: Called with every part's status whenever one has changed.

    Raises:
        CommandFailed: If something is not installed, a port is taken, or the data directory is in
            use.
    """
    installation = install.locate(settings.cache_dir)
    if absent := install.absent(installation):
        raise CommandFailed(f"{' and '.join(absent)} must be fetched first: run `headrace setup`.")
    data_dir = settings.data_dir.resolve()
    with state.locked(data_dir) as lock:
        external = {
            name: Status(str(getattr(settings, setting)), state="external")
            for name, setting in ADDRESS_SETTINGS.items()
            if setting in settings.model_fields_set
        }
        addresses, parts = _parts(installation, settings, data_dir, options, set(external))

        def publish() -> None:
            state.write(data_dir, addresses, stack.statuses)
            changed(stack.statuses)

        guard = Guard(lock)
        supervisor = Supervisor(parts, log_dir=data_dir / "logs", guard=guard, changed=publish)
        stack = Stack(supervisor, external)
        try:
            supervisor.start()
            yield stack
        finally:
            await supervisor.stop()
            guard.close()
            state.remove(data_dir)


def _parts(
    installation: install.Installation,
    settings: WorkerSettings,
    data_dir: Path,
    options: Options,
    external: set[str],
) -> tuple[dict[str, str], list[Part]]:
    """The settings that lead to this stack, and its parts in the order in which they are shown."""
    workers_names = [f"worker-{number}" for number in range(1, options.workers + 1)]
    own = [
        *workers_names,
        *(["archiver"] if options.archiver else []),
        *(["trainer"] if options.trainer else []),
    ]
    servers = ["kafka", "kafka-controller", "redis", "triton", "triton-http", "triton-metrics"]
    if options.secure:
        servers.append("redis-plain")  # behind the port that speaks TLS
    wanted = [name for name in servers if name.partition("-")[0] not in external]
    port = ports.choose([*wanted, *own], options.ports, data_dir / ports.FILE)
    addresses = {"prefix": settings.prefix, "data_dir": str(data_dir)}
    for name, setting in ADDRESS_SETTINGS.items():
        theirs = str(getattr(settings, setting))
        addresses[setting] = theirs if name in external else f"{ports.HOST}:{port[name]}"

    security = Security.of(data_dir / "security") if options.secure else None
    parts: list[Part] = []
    if "kafka" in port:
        parts.append(
            kafka.kafka(
                installation,
                data_dir / "kafka",
                port=port["kafka"],
                controller_port=port["kafka-controller"],
                prefix=settings.prefix,
                brief=options.brief,
                security=security,
            )
        )
        addresses |= security.kafka_settings if security is not None else {}
    if "redis" in port:
        plain = port["redis" if security is None else "redis-plain"]
        parts.append(redis.redis(installation, data_dir / "redis", port=plain, security=security))
        if security is not None:
            parts.append(redis.redis_tls(security, port=port["redis"], behind=plain))
            addresses |= security.redis_settings
    if "triton" in port:
        parts.append(
            triton.triton(
                installation,
                data_dir / "models",
                port=port["triton"],
                http_port=port["triton-http"],
                metrics_port=port["triton-metrics"],
                model_name=settings.model_name,
            )
        )
    environment = {f"HEADRACE_{name.upper()}": value for name, value in addresses.items()}
    run_dir = data_dir / "run"
    here = {part.name for part in parts}
    for number, name in enumerate(workers_names, start=1):
        parts.append(workers.worker(number, environment, run_dir, port=port[name], servers=here))
    if options.archiver:
        parts.append(workers.archiver(environment, run_dir, port=port["archiver"], servers=here))
    if options.trainer:
        parts.append(workers.trainer(environment, run_dir, port=port["trainer"], servers=here))
    return addresses, parts
