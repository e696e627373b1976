"""Vectors of texts: as published, and computed once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_repo.text_encoder import minilm
from model_repo.text_encoder.minilm import MiniLM
from services.errors import CommandFailed
from services.text.encoder import TextEncoder
from services.text.weights import SHA256, checked, published
from stream.items import Item, item_text

TEXTS = [
    "OPI Nail Lacquer | OPI | Beauty > Nails",
    "Hat",
    "Ünïcode, 帽子 and a word that no vocabulary holds: zxqyv",
    "long " * 400,
    "",
]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM.load(published())


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """The formula of sentence-transformers, with the weights read by transformers, in fp32."""
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(published())
    bert = BertModel.from_pretrained(published(), add_pooling_layer=False).eval()
    read = tokenizer(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.inference_mode():
        states = bert(**read).last_hidden_state
    mask = read["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()


def test_vectors_are_those_of_the_published_model(reference, monkeypatch):
    """A slip in our sixty lines would cost quality, and no other test would show it."""
    monkeypatch.setattr(minilm, "has_bf16", lambda device: False)

    vectors = MiniLM.load(published()).encode(TEXTS)

    np.testing.assert_allclose(vectors, reference, atol=1e-5)


def test_bf16_keeps_the_direction(reference, model):
    """It is four times as fast where the processor has it, and no neighbour may change."""
    assert ((model.encode(TEXTS) * reference).sum(axis=1) > 0.999).all()


def test_a_vector_does_not_depend_on_who_shares_the_batch(model):
    """Training encodes thousands together, the server one new item."""
    together = model.encode(TEXTS)

    for text, expected in zip(TEXTS, together, strict=True):
        assert model.encode([text])[0] @ expected > 0.9995


def test_a_text_is_computed_once(tmp_path: Path, monkeypatch):
    """Twelve thousand texts take half a minute, and training runs every night."""
    done: list[int] = []
    first = TextEncoder(tmp_path).encode([*TEXTS, TEXTS[0]], advanced=done.append)
    monkeypatch.setattr(MiniLM, "load", None)

    again = TextEncoder(tmp_path).encode([*TEXTS, TEXTS[0]])

    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], first[-1])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-3)


def test_no_text_at_all_is_no_error(tmp_path: Path):
    """An empty catalogue."""
    assert TextEncoder(tmp_path).encode([]).shape == (0, 384)


def test_damaged_weights_are_refused(tmp_path: Path):
    """They would answer with noise."""
    for name in SHA256:
        (tmp_path / name).write_bytes(b"{}")

    with pytest.raises(CommandFailed, match=r"config\.json is not what was published"):
        checked(tmp_path)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Item(item_id="1", title="Hat"), "Hat"),
        (
            Item(item_id="1", title="Hat", brand="Ada", categories=("Clothes", "Hats")),
            "Hat | Ada | Clothes > Hats",
        ),
        (Item(item_id="1", title="Hat", categories=("Hats",)), "Hat | Hats"),
    ],
)
def test_the_text_of_an_item(item: Item, text: str):
    """Vectors of old versions were made by this rule: a change needs every version trained anew."""
    assert item_text(item) == text
