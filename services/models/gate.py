"""The gate that every version passes, whoever brings it: `headrace model verify` is this alone."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.follow import Follower
from services.logs.catalogue_log import ItemReader
from services.logs.rows import BadRow, format_of, open_rows
from services.models import control, repository
from services.models.config import Placement
from services.models.loading import UNLOAD_TIMEOUT_S, load_and_prove, require_triton
from services.models.proof import Limits, check_coverage, check_quality
from services.models.serving import Serving
from services.models.versions import BadVersion, Manifest, read_manifest, verify
from stream import topics
from stream.ranking import RankerUnavailable

CATALOGUE_WITHIN_S = 60.0

Say = Callable[[str], None]


def check(directory: Path, serving: Serving, limits: Limits, *, say: Say) -> Manifest:
    """
    What can be told of the version in *directory* without running it.

    Args:
        say: Is told each thing that was found in order, or could not be checked.

    Raises:
        BadVersion: The first reason to refuse it. That Kafka cannot be reached is none: then what
            it knows is not compared, and said so.
    """
    manifest = verify(directory)
    if manifest.model != serving.model:
        raise BadVersion(f"{directory} is a {manifest.model!r}, not a {serving.model!r}.")
    say("Files: complete, as released, no pickle; config.pbtxt keeps the contract.")
    say(f"Vocabulary: {_known(directory, serving, limits)}.")
    say(f"Quality: {_quality(manifest, serving, limits)}.")
    return manifest


def _known(directory: Path, serving: Serving, limits: Limits) -> str:
    try:
        items = limits.items or live_items(serving.kafka, serving.topic(topics.ITEMS))
    except CommandFailed:
        return "not compared, as Kafka cannot be reached; --items FILE names a catalogue"
    if not items:
        return "not compared, as items.v1 is empty; --items FILE names a catalogue"
    return f"it knows {check_coverage(directory, items, limits):.0%} of {len(items):,} items"


def _quality(manifest: Manifest, serving: Serving, limits: Limits) -> str:
    try:
        state = serving.state()
    except CommandFailed:
        return "not compared, as Kafka cannot be reached"
    if state is None or not (serving.repository / state.version).exists():
        return "not compared, as no version serves"
    return check_quality(manifest, read_manifest(serving.repository / state.version), limits)


def try_out(directory: Path, manifest: Manifest, serving: Serving, limits: Limits) -> float:
    """
    Load the version in *directory* on Triton under a name of its own, ask it, and unload it.

    A stranger's code runs in Triton's process for models, never in ours.

    Returns:
        The median time of the golden batch, in ms.

    Raises:
        BadVersion: If it cannot be loaded, or answers wrongly or slowly.
        CommandFailed: If Triton cannot be reached.
    """
    scratch = serving.repository.with_name(f"{serving.model}-verify")
    address = serving.triton_address
    with repository.locked(scratch):
        asyncio.run(require_triton(address, scratch.name))
        repository.remove_version(scratch / "1")
        repository.copy_version(directory, scratch / "1", manifest)
        try:
            return asyncio.run(
                load_and_prove(
                    address,
                    scratch,
                    ["1"],
                    "1",
                    placement=Placement(serving.placement.device),
                    manifest=manifest,
                    limits=limits,
                )
            )
        except RankerUnavailable as error:
            raise BadVersion(f"{directory} is refused: {first_line(error)}") from error
        finally:
            with contextlib.suppress(RankerUnavailable):
                asyncio.run(control.unload(address, scratch.name, timeout_s=UNLOAD_TIMEOUT_S))
            repository.remove_version(scratch / "1")


def live_items(kafka: KafkaConnection, topic: str) -> frozenset[str]:
    """The item ids in the catalogue now. Raises `CommandFailed` if Kafka cannot be reached."""
    found: set[str] = set()

    def take(key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        item_id = key.decode(errors="replace")
        if value is None:
            found.discard(item_id)
        else:
            found.add(item_id)

    with Follower(kafka, topic, take) as follower:
        follower.start(CATALOGUE_WITHIN_S)
    return frozenset(found)


def items_in(file: Path) -> frozenset[str]:
    """The item ids of a catalogue file with our own column names. Raises `CommandFailed`."""
    reader = ItemReader()
    try:
        with open_rows(file, format_of(file, None), reader.columns) as log:
            return frozenset(reader.read(row)[0].item_id for row in log.rows)
    except BadRow as error:
        raise CommandFailed(f"{file} is no catalogue: {error}.") from error


def first_line(error: Exception) -> str:
    """An error of Triton's without the traceback that it carries along."""
    return str(error).splitlines()[0]
