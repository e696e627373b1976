"""
The bare loop: the least that an event can cost, to compare the pipeline with. Never a worker.

No Faust, Feast, guarantee (what a crash repeats is folded twice), catalogue or re-ranking.
"""

import signal
import sys
from pathlib import Path

import numpy as np
import orjson
import tritonclient.grpc as triton
from confluent_kafka import Consumer, Producer
from redis import Redis

from stream.event_types import BY_NAME
from stream.keys import item_key

LENGTH, K, BATCH = 50, 20, 256
INPUTS = ("item_keys", "event_types", "ages_s", "price_buckets", "context")
ENTRY = np.dtype(list(zip(INPUTS, ("<i8", "<i4", "<f4", "<i4", "<i4"), strict=True)))
TYPES = ("INT64", "INT32", "FP32", "INT32", "INT32")  # the same, as Triton calls them


def run(kafka: str, redis: str, triton_address: str, prefix: str, version: str) -> None:
    """Handle events until SIGTERM. *version* is the directory of the version that serves."""
    server = {"bootstrap.servers": kafka}
    reading = {"group.id": "bare", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    writing = {"enable.idempotence": True, "linger.ms": 0, "compression.type": "lz4"}
    events, slates = Consumer(server | reading), Producer(server | writing)
    events.subscribe([f"{prefix}events.v1"])
    store, ranker = Redis.from_url(f"redis://{redis}"), triton.InferenceServerClient(triton_address)
    items = {item_key(one): one for one in orjson.loads(Path(version, "item_ids.json").read_text())}
    newcomer = np.zeros(LENGTH, ENTRY)  # as many actions as the pipeline's users have
    newcomer["item_keys"], newcomer["event_types"] = list(items)[:LENGTH], 1
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    while not stopping:
        first = events.poll(0.1)
        messages = [first, *events.consume(BATCH - 1, timeout=0)] if first else []
        keyed = [(one.key() or b"", orjson.loads(one.value() or b"")) for one in messages]
        users = list(dict(keyed))
        if not users:
            continue
        with store.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.get(b"bare:" + user)
            found = [np.frombuffer(raw, ENTRY) if raw else newcomer for raw in pipe.execute()]
        rows, triggers = dict(zip(users, found, strict=True)), {}
        for user, event in keyed:
            triggers[user] = event["event_id"]
            # Its age, price and context stay unread: the model takes as long.
            entry = (item_key(event["item_id"]), BY_NAME[event["event_type"]], 0, 0, 0)
            rows[user] = np.append(rows[user], np.array([entry], ENTRY))[-LENGTH:]
        with store.pipeline(transaction=False) as pipe:
            for user, row in rows.items():
                pipe.set(b"bare:" + user, row.tobytes())
            pipe.execute()
        histories = np.stack(list(rows.values()))  # (B, L)
        asked = []
        for name, kind in zip(INPUTS, TYPES, strict=True):
            asked.append(triton.InferInput(name, histories.shape, kind))
            asked[-1].set_data_from_numpy(histories[name].copy())
        answer = ranker.infer("ranker", asked)
        keys, scores = (answer.as_numpy(name)[:, :K].tolist() for name in ("item_keys", "scores"))
        for user, *ranked in zip(rows, keys, scores, strict=True):
            pairs = zip(*ranked, strict=True)
            best = [{"item_id": items[key], "score": score} for key, score in pairs]
            slate = {"trigger": {"event_id": triggers[user]}, "items": best}
            slates.produce(f"{prefix}recommendations.v1", key=user, value=orjson.dumps(slate))
        slates.flush()
        events.commit(asynchronous=False)
    events.close()


if __name__ == "__main__":
    run(*sys.argv[1:])
