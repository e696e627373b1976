"""A version's life under load: tried, seen, stopped by its guard, promoted, gone back from."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.models import deployment
from services.models.config import Placement
from services.models.serving import Serving
from services.models.state import write_state
from services.models.status import Performance, model_status
from services.models.versions import sha256
from services.processes import of_family
from stream import topics
from stream.deployments import EVERYBODY, Deployment
from tests.integration.ledger import Ledger, read_topic
from tests.integration.support import Processes, Servers, fresh_environment, serving_of
from tests.integration.swaps import ITEM_IDS, put_items, sending, watching
from tests.tiny_model import build_tiny_version

pytestmark = pytest.mark.timeout(300)

BUILD = Path(__file__).parents[2] / "examples" / "tiny-model" / "build.py"
USERS = 200


def until(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    """Poll *condition* until it is truthy, and return what it gave."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s; last: {found!r}"
        time.sleep(0.1)
    return found


@dataclass
class Shop:
    """Where a tiny ranker serves, and one worker follows."""

    ledger: Ledger
    serving: Serving
    process: Processes
    directory: Path
    first: str  # the version that was deployed first

    @property
    def state(self) -> Deployment:
        state = self.serving.state()
        assert state is not None
        return state

    def bring(self, step: Callable[..., str], source: Path, *arguments: Any) -> str:
        return step(source, *arguments, self.serving, say=lambda line: None)

    def arrivals(self) -> Any:
        return watching(self.ledger.servers, self.ledger.topic(topics.RECOMMENDATIONS))

    def shoppers(self) -> Any:
        return sending(self.ledger, rate=50, users=USERS)

    def run(self, *arguments: str) -> str:
        running = self.process(*arguments)
        assert running.popen.wait(60) == 0, running.output
        return running.output


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of docs/model-updates.md, made as the guide says."""
    directory = tmp_path_factory.mktemp("example")
    events = directory / "events.jsonl"
    events.write_bytes(
        b"\n".join(
            orjson.dumps({"user_id": f"u{user}", "item_id": ITEM_IDS[(user + step) % 50]})
            for user in range(50)
            for step in range(9)
        )
    )
    made = directory / "version"
    subprocess.run([sys.executable, BUILD, events, "--out", made], check=True)
    return made


@pytest.fixture(scope="module")
def shop(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("updates")
    with fresh_environment(stack, directory / "data") as environment:
        ledger = Ledger(environment)
        put_items(ledger)
        serving = serving_of(stack, ledger.prefix)
        ranker = build_tiny_version(directory / "ranker", ITEM_IDS)
        first = deployment.deploy(ranker, serving, say=lambda line: None)
        process = Processes(directory, environment)
        # What is late only because other tests are at work is no fault of a version.
        process("worker", worker_instance_id="w1", triton_deadline_ms=5000).wait_ready()
        yield Shop(ledger, serving, process, directory, first)
        process.end()


def answering_nonsense_later(tiny: Path, directory: Path) -> Path:
    """
    A version that passes the gate, and then goes bad: after 60 requests its scores are NaN.

    Of one user each, as shoppers' are. The golden batch has three, so that the stack's own probe
    finds nothing wrong and does not start its process anew before the worker has noticed.
    """
    subprocess.run(["cp", "-r", tiny, directory], check=True)
    code = (directory / "markov.py").read_text()
    code = code.replace("import numpy as np\n", "import itertools\n\nimport numpy as np\n", 1)
    code = code.replace("class Markov(", "asked = itertools.count()\n\n\nclass Markov(", 1)
    spoil = "        scores += np.where(len(item_keys) > 1 or next(asked) < 60, 0, np.nan)\n"
    code = code.replace("        best = ", spoil + "        best = ", 1)
    (directory / "markov.py").write_text(code)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sha256"]["markov.py"] = sha256(directory / "markov.py")
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def compared_as_shadow(shop: Shop, version: str) -> Performance | None:
    found = model_status(shop.serving).versions.get(version)
    return found if found and found.overlap_at_20 is not None else None


def test_somebody_elses_model_is_tried_unseen_then_seen_then_serves(shop: Shop, tiny: Path) -> None:
    """The way of docs/model-updates.md, with a model that shares no line with ours."""
    assert "would be accepted" in shop.run("model", "verify", str(tiny))
    with shop.arrivals() as arrivals, shop.shoppers():
        version = shop.bring(deployment.shadow, tiny)
        compared = until(lambda: compared_as_shadow(shop, version))
        assert compared.slates == 0 and 0 < (compared.overlap_at_20 or 0) <= 1
        assert set(arrivals.models) == {shop.first}

        shop.bring(deployment.canary, version, EVERYBODY // 2)
        canary = shop.state.canary
        assert canary is not None and canary.version == version
        until(lambda: arrivals.models[-50:].count(version) > 10)
        deployment.promote(shop.serving, None, say=lambda line: None)
        until(lambda: set(arrivals.models[-20:]) == {version})
        deployment.rollback(shop.serving, say=lambda line: None)
        until(lambda: set(arrivals.models[-20:]) == {shop.first})

    on_trial = [slate for slate in shop.ledger.slates() if slate["model"]["version"] == version]
    of_others = {slate["user_id"] for slate in on_trial if not canary.takes(slate["user_id"])}
    assert {slate["user_id"] for slate in on_trial} > of_others  # they had it once it was promoted
    assert on_trial[0]["items"][0]["sources"] == ["ranker"]
    seen = json.loads(shop.run("model", "status", "--json"))
    assert (seen["workers"], seen["loaded"]) == ({"w1": shop.state.revision}, [shop.first])
    assert {tuple(one["failures"]) for one in seen["versions"].values()} == {()}


def test_a_change_is_followed_without_a_restart(shop: Shop) -> None:
    """How soon is a figure of ``make swaps``; here it is that, and by which record."""
    with shop.arrivals() as arrivals, shop.shoppers():
        other = build_tiny_version(shop.directory / "other", ITEM_IDS, seed=2)
        version = shop.bring(deployment.deploy, other)
        until(lambda: arrivals.models[-1] == version)
    announced = read_topic(shop.ledger.servers, shop.ledger.topic(topics.DEPLOYMENTS))[-1]

    assert Deployment.model_validate_json(announced.value() or b"").version == version


def test_a_canary_that_goes_bad_is_rolled_back_without_a_person(shop: Shop, tiny: Path) -> None:
    """And without a degraded slate: whom it fails, the serving version ranks."""
    bad = answering_nonsense_later(tiny, shop.directory / "bad")
    with shop.arrivals() as arrivals, shop.shoppers():
        version = shop.bring(deployment.canary, bad, EVERYBODY // 2)
        until(lambda: shop.state.canary is None)
        begin = len(arrivals.models)
        time.sleep(0.5)

    assert shop.state.reason == f"canary {version} was rolled back by w1: its values are wrong"
    assert version in arrivals.models[:begin]
    assert set(arrivals.models[begin:]) == {shop.state.version}
    assert None not in arrivals.models


def test_several_copies_of_the_ranker_answer(shop: Shop, stack: Servers) -> None:
    """More cores than one copy keeps busy: they share its requests, in processes of their own."""
    several = replace(shop.serving, placement=Placement(instances=3))
    source = build_tiny_version(shop.directory / "several", ITEM_IDS, seed=3)
    with shop.arrivals() as arrivals, shop.shoppers():
        version = deployment.deploy(source, several, say=lambda line: None)
        until(lambda: arrivals.models[-1] == version)

    assert copies(stack, version) == 3
    assert None not in arrivals.models


def copies(stack: Servers, version: str) -> float:
    """How many of the processes of Triton's models run that version of the ranker."""
    triton = psutil.Process(stack.part("triton")["pid"])
    return of_family(triton, lambda one: f"/ranker/{version}/" in " ".join(one.cmdline()))


def test_two_who_change_at_the_same_moment_do_not_undo_each_other(shop: Shop) -> None:
    """The second is told, and every reader goes by the first."""
    state = shop.state
    mine = state.compare_with(None, now=state.changed_at, reason="mine")
    theirs = state.compare_with("77", now=state.changed_at, reason="theirs")
    topic = shop.ledger.topic(topics.DEPLOYMENTS)
    write_state(KafkaConnection(shop.ledger.servers), topic, mine)

    with pytest.raises(CommandFailed, match="mine"):
        write_state(KafkaConnection(shop.ledger.servers), topic, theirs)

    assert shop.state == mine
    last = read_topic(shop.ledger.servers, topic)[-1].value()
    assert Deployment.model_validate_json(last or b"") == mine  # all that compaction leaves


def test_a_vocabulary_of_other_items_is_refused(shop: Shop, tiny: Path) -> None:
    """A model of last year's catalogue could recommend next to nothing."""
    for number in range(100):
        value = orjson.dumps({"item_id": f"new-{number}", "title": "New"})
        shop.ledger.producer.produce(
            shop.ledger.topic(topics.ITEMS), key=f"new-{number}".encode(), value=value
        )
    shop.ledger.flush()
    running = shop.process("model", "verify", str(tiny))

    assert running.popen.wait(60) == 2
    assert "knows 33% of the 150 items" in running.output
    assert "Traceback" not in running.output


def test_nothing_was_lost_in_all_this(shop: Shop) -> None:
    """Every event is in its row once, and its user's last slate tells of it."""
    until(shop.ledger.settled)
    time.sleep(0.5)

    shop.ledger.assert_exact()
