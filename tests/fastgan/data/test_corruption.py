"""Damaged input of every kind either loads or raises DataError, and nothing else."""

import io
import random

import numpy as np
import pytest
import torch
from image_sources import decoded, encode, write_mnist, write_stylegan_zip

from fastgan.data import DataError, load_dataset, open_dataset
from fastgan.data.decode import read_header

MUTATIONS = 150


def mutants(data: bytes, seed: int):
    """Truncations, flipped bits, overwritten, inserted and removed runs; headers are hit as often as the rest."""
    draw = random.Random(seed)
    for _ in range(MUTATIONS):
        mutant = bytearray(data)
        reach = draw.choice((len(data), min(len(data), 128)))
        position = draw.randrange(reach)
        # Tail and head alike: a zip's directory is at the end.
        position = draw.choice((position, len(data) - 1 - position))
        kind = draw.randrange(5)
        if kind == 0:
            del mutant[position:]
        elif kind == 1:
            for _ in range(draw.choice((1, 1, 1, 8))):
                mutant[draw.choice((position, draw.randrange(len(data))))] ^= 1 << draw.randrange(8)
        elif kind == 2:
            run = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", draw.randbytes(4)))
            mutant[position : position + 4] = run
        elif kind == 3:
            mutant[position:position] = draw.randbytes(draw.randrange(1, 20))
        else:
            del mutant[position : position + draw.randrange(1, 20)]
        yield bytes(mutant)


def survives(load, data: bytes, seed: int) -> int:
    """The number of mutants refused; anything but a result or DataError escapes."""
    refused = []
    for mutant in mutants(data, seed):
        try:
            load(mutant)
        except DataError as error:
            refused.append(str(error))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in refused)
    return len(refused)


def read_lazily(path) -> torch.Tensor | DataError:
    try:
        dataset = open_dataset(str(path))
        return torch.stack([dataset[index][0] for index in range(len(dataset))])
    except DataError as error:
        return error


@pytest.mark.parametrize("kind", ["zip", "deflated.npz", "npz", "npy", "idx", "idx.gz", "labels", "json"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_sources(tmp_path, gray, rgb, kind):
    labels = np.arange(5)
    target = tmp_path / f"a.{kind}"
    if kind == "zip":
        source = write_stylegan_zip(tmp_path / "source", rgb, labels.tolist())
    elif kind.endswith("npz"):
        source = tmp_path / "source.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(source, images=rgb, labels=labels)
    elif kind == "npy":
        source = tmp_path / "source.npy"
        np.save(source, gray)
    elif kind == "json":
        source = target = tmp_path / "dataset.json"
        source.write_text('{"labels": [["a.png", 3]]}')
        (tmp_path / "a.png").write_bytes(encode(gray[0]))
    else:
        source = write_mnist(tmp_path / "m", gray, labels, gz=kind == "idx.gz")
        target = source = (
            source.with_name(source.name.replace("images-idx3", "labels-idx1")) if kind == "labels" else source
        )

    path = {"json": tmp_path, "labels": tmp_path / "m"}.get(kind, target)

    def load(mutant: bytes) -> None:
        target.write_bytes(mutant)
        opened = read_lazily(path)
        whole = load_dataset(str(path)).images
        assert isinstance(opened, torch.Tensor), opened
        assert torch.equal(opened, whole)

    assert survives(load, source.read_bytes(), seed=len(kind)) > MUTATIONS // 4


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_images(rgb, suffix):
    data = encode(rgb[0], suffix)

    def load(mutant: bytes) -> None:
        try:
            channels, size = read_header(io.BytesIO(mutant), "x")
            header = channels, *sorted(size)
        except DataError as error:
            header = error
        channels, *size = decoded(mutant, "x").shape
        # An orientation may have turned it.
        assert (channels, *sorted(size)) == header

    assert survives(load, data, seed=1) > MUTATIONS // 10
