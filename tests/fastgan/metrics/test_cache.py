from pathlib import Path

import pytest
import torch

from fastgan.metrics.cache import cache_folder, cached, digest_of
from fastgan.metrics.features import Features

KEY = {"images": "a", "features": "digits", "filter": "none", "count": 3}


class Counting:
    def __init__(self, logits=True):
        self.calls = 0
        self.features = Features(torch.arange(6.0).reshape(3, 2), torch.ones(3, 4) if logits else None)

    def __call__(self):
        self.calls += 1
        return self.features


@pytest.mark.parametrize("logits", [True, False])
def test_features_are_computed_once(tmp_path, logits):
    compute = Counting(logits)
    for _ in range(3):
        found = cached(KEY, compute, tmp_path / "deep" / "folder", warn=pytest.fail)
        assert torch.equal(found.values, compute.features.values)
        assert (found.logits is not None) is logits
    assert compute.calls == 1
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 1


@pytest.mark.parametrize("changed", KEY)
def test_the_key_holds_all_that_determines_the_features(tmp_path, changed):
    compute = Counting()
    cached(KEY, compute, tmp_path, warn=pytest.fail)
    cached(KEY | {changed: "other"}, compute, tmp_path, warn=pytest.fail)
    assert compute.calls == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"\xff" * len(content),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"digits", b"digitz"),
    ],
)
def test_what_is_damaged_is_computed_again_with_a_warning(tmp_path, damage):
    compute = Counting()
    cached(KEY, compute, tmp_path, warn=pytest.fail)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    warned = []
    found = cached(KEY, compute, tmp_path, warn=warned.append)
    assert "are damaged and computed again" in warned[0]
    assert torch.equal(found.values, compute.features.values)
    cached(KEY, compute, tmp_path, warn=pytest.fail)
    assert compute.calls == 2


def test_a_folder_that_cannot_be_written_causes_a_warning(tmp_path):
    (tmp_path / "file").touch()
    warned = []
    cached(KEY, Counting(), tmp_path / "file" / "folder", warn=warned.append)
    assert "features cannot be kept in" in warned[0]


def test_the_folder_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fastgan" / "features"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path.home() / ".cache" / "fastgan" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fastgan" / "features"


def test_a_digest_is_of_shape_type_and_bytes():
    images = torch.arange(24, dtype=torch.uint8)
    digests = {digest_of(x) for x in (images, images.reshape(2, 12), images.to(torch.int8), images.flip(0))}
    assert len(digests) == 4
    assert digest_of(images.reshape(4, 6).T) == digest_of(images.reshape(4, 6).T.contiguous())
