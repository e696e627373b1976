"""A version directory is believed only if every file is what was released."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.models.versions import BadVersion, disagreement, sha256, verify
from stream.ranking import Ranked
from tests.tiny_model import build_tiny_version

ITEM_IDS = [f"item-{number}" for number in range(30)]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("versions") / "1", ITEM_IDS)


@pytest.fixture
def version(released: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    copy = Path(shutil.copytree(released, tmp_path / "version"))
    for path in (copy, *copy.iterdir()):
        path.chmod(0o755)
    return copy


def change_manifest(version: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((version / "manifest.json").read_text())
    change(manifest)
    (version / "manifest.json").write_text(json.dumps(manifest))


def test_a_release_is_complete_and_read_only(released: Path):
    """What serves must never change under Triton's feet."""
    manifest = verify(released)

    assert manifest.vocabulary_size == 30
    assert set(manifest.popular) == set(ITEM_IDS)
    assert all(path.stat().st_mode & 0o222 == 0 for path in (released, *released.iterdir()))


def test_a_flipped_bit_is_found(version: Path):
    """A copy over a network, a disk that forgets."""
    weights = bytearray((version / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (version / "model.safetensors").write_bytes(weights)

    with pytest.raises(BadVersion, match=r"model\.safetensors is not what was released"):
        verify(version)


@pytest.mark.parametrize("name", ["model.py", "model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(version: Path, name: str):
    """An interrupted copy."""
    (version / name).unlink()

    with pytest.raises(BadVersion, match=name):
        verify(version)


@pytest.mark.parametrize("name", ["weights.pt", "items.npy", "../../etc/passwd"])
def test_pickles_and_paths_are_refused(version: Path, name: str):
    """Reading a pickle runs whatever its author wished."""
    change_manifest(version, lambda manifest: manifest["sha256"].update({name: "0"}))

    with pytest.raises(BadVersion, match="may not be in a version"):
        verify(version)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"a": 1}), "pickle"),
        (b"PK\x03\x04 as torch.save writes it", "pickle"),
        (b"plain text", None),
    ],
)
def test_a_pickle_is_known_by_its_content_too(version: Path, content: bytes, reason: str | None):
    """Whoever was told that .pt is refused may call it .dat."""
    (version / "weights.dat").write_bytes(content)
    digest = sha256(version / "weights.dat")
    change_manifest(version, lambda manifest: manifest["sha256"].update({"weights.dat": digest}))

    if reason is None:
        verify(version)
    else:
        with pytest.raises(BadVersion, match=reason):
            verify(version)


def test_a_configuration_that_breaks_the_contract_is_refused(version: Path):
    """Before Triton or a worker finds out."""
    text = (version / "config.pbtxt").read_text().replace('"scores"', '"logits"')
    (version / "config.pbtxt").write_text(text)
    digest = sha256(version / "config.pbtxt")
    change_manifest(version, lambda manifest: manifest["sha256"].update({"config.pbtxt": digest}))

    with pytest.raises(BadVersion, match="no output scores"):
        verify(version)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_keys": []}, "no item_keys"),
        ({"ages_s": [[0.0]]}, "ages_s of another shape"),
        ({"expected": {"item_keys": [[1, 2]], "scores": [[1, 1]]}}, "one row"),
    ],
)
def test_a_golden_batch_that_proves_nothing_is_refused(
    version: Path, change: dict[str, Any], reason: str
):
    """It is all that stands between a wrong model and the shoppers."""
    change_manifest(version, lambda manifest: manifest["golden"].update(change))

    with pytest.raises(BadVersion, match=reason):
        verify(version)


def test_a_link_is_not_a_file(version: Path):
    """What it points at can change."""
    (version / "network.py").rename(version.parent / "network.py")
    (version / "network.py").symlink_to(version.parent / "network.py")

    with pytest.raises(BadVersion, match=r"network\.py is missing"):
        verify(version)


def test_item_keys_that_do_not_ascend_are_refused(version: Path):
    """The model finds items by binary search: it would answer with others, without an error."""
    from safetensors.numpy import load_file, save_file

    items = load_file(version / "items.safetensors")
    items["item_keys"] = items["item_keys"][::-1].copy()
    save_file(items, version / "items.safetensors")
    digest = sha256(version / "items.safetensors")
    change_manifest(version, lambda m: m["sha256"].update({"items.safetensors": digest}))

    with pytest.raises(BadVersion, match="do not ascend"):
        verify(version)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', '{"format": 1}', "\x00"])
def test_a_manifest_of_another_kind_is_refused_not_a_traceback(version: Path, content: str):
    """Directories are named by hand."""
    (version / "manifest.json").write_text(content)

    with pytest.raises(BadVersion, match="manifest"):
        verify(version)


def test_the_golden_batch_tells_other_weights_and_other_items(released: Path):
    """Loading is no proof: an answer of the right shape may still be the wrong one."""
    manifest = verify(released)
    right = manifest.golden_answer

    assert disagreement(manifest, right) is None
    assert disagreement(manifest, Ranked(right.item_keys, right.scores + 1e-5)) is None
    assert "scores" in str(disagreement(manifest, Ranked(right.item_keys, right.scores + 5.0)))
    assert "items" in str(disagreement(manifest, Ranked(right.item_keys[:, ::-1], right.scores)))
    fewer = Ranked(right.item_keys[:, :5], right.scores[:, :5])
    assert "answers 5" in str(disagreement(manifest, fewer))
