"""What a worker says of itself: pages, traces and logs, on real servers."""

import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import orjson
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream import topics
from tests.builders import event_json
from tests.integration.ledger import Ledger, read_topic
from tests.integration.support import (
    Processes,
    Running,
    Servers,
    eventually,
    free_port,
    fresh_environment,
)

USER = "ada-lovelace@example.com"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ALERTS = Path(__file__).parents[2] / "deploy/prometheus/alerts.yaml"
NOT_BY_WORKERS = ("headrace_trainer_", "headrace_archive_")


class Collector:
    """An OTLP collector that keeps the names of spans by trace."""

    def __init__(self) -> None:
        self.spans: dict[str, set[str]] = {}
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                zipped = self.headers.get("Content-Encoding") == "gzip"
                collector.take(gzip.decompress(body) if zipped else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.trace_id.hex(), set()).add(span.name)

    def close(self) -> None:
        self._server.shutdown()


@dataclass
class Watched:
    """A worker at debug, its collector, and what was sent to it."""

    worker: Running
    port: int
    collector: Collector
    ledger: Ledger

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def watched(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A worker whose Triton is nowhere, with one traced event and some garbage behind it."""
    directory = tmp_path_factory.mktemp("operations")
    port = free_port()
    with fresh_environment(stack, directory / "data") as environment:
        processes, collector = Processes(directory, environment), Collector()
        try:
            worker = processes(
                "worker",
                log_level="debug",
                metrics_port=port,
                otlp_endpoint=collector.address,
                triton_address="127.0.0.1:1",
            ).wait_ready()
            ledger = Ledger(environment)
            event = orjson.dumps(event_json(user_id=USER))
            traceparent = f"00-{TRACE}-{SPAN}-01".encode()
            ledger.raw(USER.encode(), event, headers=[("traceparent", traceparent)])
            ledger.raw(USER.encode(), orjson.dumps(event_json(user_id=USER, event_type="no such")))
            ledger.flush()
            yield Watched(worker, port, collector, ledger)
        finally:
            processes.end()
            collector.close()


async def test_a_slate_and_a_collector_have_the_trace_of_the_event(watched: Watched) -> None:
    """Through Kafka's headers on both sides."""
    topic = watched.ledger.topic(topics.RECOMMENDATIONS)

    (slate,) = await eventually(lambda: read_topic(watched.ledger.servers, topic))

    traceparent = dict(slate.headers() or ())["traceparent"]
    assert isinstance(traceparent, bytes)
    assert re.fullmatch(rf"00-{TRACE}-(?!{SPAN})[0-9a-f]{{16}}-01", traceparent.decode())
    spans = watched.collector.spans
    await eventually(lambda: spans.get(TRACE) == {"publish_slate"})
    assert any({"micro_batch", "fold", "write", "publish"} <= names for names in spans.values())


async def test_pages_say_that_it_is_alive_ready_and_degraded(watched: Watched) -> None:
    """Triton is nowhere: that is no reason to take the worker out of service."""

    def ready() -> Any:
        code, said = watched.page("/readyz")
        return code == 200 and json.loads(said)

    said = await eventually(ready)

    assert watched.page("/healthz")[0] == 200
    assert said["missing"] == {}
    assert list(said["degraded"]) == ["ranker"]
    # Nothing has been deployed under this prefix; what it would be asked, it cannot answer.
    assert "version" in said["degraded"]["ranker"]


async def test_what_alerts_ask_for_is_on_the_page(watched: Watched) -> None:
    """Those of tests/unit/test_monitoring.py exist; these have values too."""
    await eventually(lambda: 'dependency="redis"' in watched.page("/metrics")[1])
    await eventually(lambda: 'outcome="dead_lettered"} 1.0' in watched.page("/metrics")[1])
    _, page = watched.page("/metrics")

    asked = {
        name
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
        for name in re.findall(r"\bheadrace_\w+", rule["expr"])
        if not name.startswith(NOT_BY_WORKERS)
    }
    described = {name.removesuffix("_bucket") for name in asked}
    assert {name for name in described if f"# TYPE {name} " not in page} == set()


async def test_no_line_of_its_log_names_a_user(watched: Watched) -> None:
    """At debug, with a slate, a dead letter and the libraries' own lines."""
    await eventually(lambda: "batch_settled" in watched.worker.output)
    watched.worker.terminate()

    output = watched.worker.output
    assert '"users": ["' in output  # a hash, to follow one user by
    assert USER not in output
    assert USER.encode().hex() not in output
