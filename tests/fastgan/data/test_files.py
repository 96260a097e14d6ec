import io
import json
import os
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from image_sources import encode, write_stylegan_zip
from PIL import Image

from fastgan import load_generator
from fastgan.data import DataError, archive, files, load_dataset, open_dataset
from fastgan.data.decode import decode_image
from fastgan.data.pixels import fit_image


def write_folder(folder, images, names=None):
    for index, image in enumerate(images):
        path = folder / (names[index] if names else f"{index:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return folder


def channels_first(images):
    return torch.from_numpy(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2).copy())


def test_folder_of_gray_and_of_color(tmp_path, gray, rgb):
    for name, images in (("gray", gray), ("rgb", rgb)):
        dataset = load_dataset(str(write_folder(tmp_path / name, images)))
        assert torch.equal(dataset.images, channels_first(images))
        assert dataset.labels is None


def test_folder_is_read_in_the_order_of_relative_paths(tmp_path, gray):
    names = ["b/1.png", "a/2.PNG", "a/1.png", "c.png", "a/b/3.png"]
    write_folder(tmp_path, gray, names)
    expected = gray[[names.index(name) for name in sorted(names)]]
    assert torch.equal(load_dataset(str(tmp_path)).images, channels_first(expected))


def test_hidden_and_other_files_are_passed_over(tmp_path, gray):
    write_folder(tmp_path, gray)
    for name in (".hidden.png", ".thumbs/a.png", "a/._b.png", "notes.txt", "model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    (tmp_path / ".loop").symlink_to(tmp_path)
    assert torch.equal(load_dataset(str(tmp_path)).images, channels_first(gray))


OF_SYSTEMS = [
    *("@eaDir/000.png/SYNOPHOTO_THUMB_XL.jpg", "a/@eaDir/000.png/SYNOFILE_THUMB_M.png", ".thumbnails/normal/0.png"),
    *(
        "#recycle/old.png",
        "@Recycle/old.png",
        "@Recently-Snapshot/old.png",
        "#snapshot/old.png",
        "$RECYCLE.BIN/old.png",
    ),
    *("__MACOSX/000.png", "__MACOSX/._000.png", ".AppleDouble/000.png", "Network Trash Folder/old.png"),
    *("Temporary Items/old.png", "System Volume Information/old.png", "lost+found/old.png", "Thumbs.db", "desktop.ini"),
]


@pytest.mark.parametrize("packed", [False, True])
def test_what_systems_put_beside_the_images_is_no_image(tmp_path, gray, packed):
    write_folder(tmp_path / "a", gray)
    for name in [*OF_SYSTEMS, "@eaDir/dataset.json"]:
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(encode(gray[0, :3, :3]))
    source = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a") if packed else str(tmp_path / "a")
    assert torch.equal(load_dataset(source).images, channels_first(gray))


def test_an_unreadable_system_folder_is_not_opened(tmp_path, gray, monkeypatch):
    write_folder(tmp_path, gray)
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert len(load_dataset(str(tmp_path)).images) == 5


@pytest.mark.parametrize(("of_files", "of_labels"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("packed", [False, True])
def test_names_that_look_alike_are_alike(tmp_path, gray, of_files, of_labels, packed):
    names = [f"é{index}/Ångström.png" for index in range(5)]
    write_folder(tmp_path / "a", gray, [unicodedata.normalize(of_files, name) for name in names])
    pairs = [[unicodedata.normalize(of_labels, name), index] for index, name in enumerate(names)]
    (tmp_path / "a" / "dataset.json").write_text(json.dumps({"labels": pairs}))
    source = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a") if packed else str(tmp_path / "a")
    assert load_dataset(source).labels.tolist() == [0, 1, 2, 3, 4]


def test_files_that_differ_only_in_how_a_letter_is_written_keep_their_own_labels(tmp_path, gray):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    write_folder(tmp_path, gray[:2], names)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[names[0], 3], [names[1], 4]]}))
    assert sorted(load_dataset(str(tmp_path)).labels.tolist()) == [3, 4]


@pytest.mark.parametrize("first", ["gray", "rgb"])
def test_mixed_channels_become_rgb(tmp_path, gray, rgb, first):
    pair = [gray[0], rgb[0]] if first == "gray" else [rgb[0], gray[0]]
    images = load_dataset(str(write_folder(tmp_path, [*pair, gray[1]]))).images
    as_rgb = [np.stack([image] * 3, -1) if image.ndim == 2 else image for image in [*pair, gray[1]]]
    assert torch.equal(images, channels_first(np.stack(as_rgb)))


def test_zip_as_dataset_tool_writes_it(tmp_path, rgb, gray):
    dataset = load_dataset(str(write_stylegan_zip(tmp_path / "a.zip", rgb, [3, 1, 4, 1, 5])))
    assert torch.equal(dataset.images, channels_first(rgb))
    assert dataset.labels.tolist() == [3, 1, 4, 1, 5]
    assert dataset.labels.dtype == torch.int64
    dataset = load_dataset(str(write_stylegan_zip(tmp_path / "b.zip", gray)))
    assert torch.equal(dataset.images, channels_first(gray))
    assert dataset.labels is None


def test_zip_without_dataset_json_deflated_in_any_order(tmp_path, gray):
    order = [3, 0, 4, 1, 2]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/", b"")
        archive.writestr("__MACOSX/._0.png", b"finder's notes")
        for index in order:
            archive.writestr(f"x/{index}.png", encode(gray[index]))
    dataset = load_dataset(str(tmp_path / "a.zip"))
    assert torch.equal(dataset.images, channels_first(gray))
    assert dataset.labels is None


def test_links_to_folders_are_followed_but_loops_refused(tmp_path, gray, refused):
    write_folder(tmp_path / "elsewhere", gray)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    assert torch.equal(load_dataset(str(tmp_path / "set")).images, channels_first(gray))
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "set")
    refused(tmp_path / "set", "links back", "loop")


def test_folders_without_images(tmp_path, refused):
    refused(tmp_path, "holds no images", ".png", repr(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "holds no images")
    (tmp_path / "sub.png").mkdir()
    refused(tmp_path, "holds no images")
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    refused(tmp_path / "a.zip", "holds no images", "a.zip")


def test_broken_images_are_named(tmp_path, gray, refused):
    write_folder(tmp_path / "a", gray)
    (tmp_path / "a" / "002.png").write_bytes(encode(gray[2])[:60])
    refused(tmp_path / "a", "002.png", "broken or truncated")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0/0.png", b"")
    refused(tmp_path / "a.zip", "'0/0.png' in ", "a.zip", "not a readable image")


def test_mixed_sizes_name_two_files(tmp_path, gray, refused):
    write_folder(tmp_path, [gray[0], gray[1], gray[2, :4, :4]])
    refused(tmp_path, "002.png", "4x4", "000.png", "6x6", "one size", fit="refuse")
    refused(tmp_path, "002.png", "000.png", resolution=8, fit="refuse")


def test_non_square_images(tmp_path, gray, refused):
    write_folder(tmp_path, [gray[0], gray[1, :4]])
    refused(tmp_path, "001.png", "6x4", "square", fit="refuse")


def test_folders_at_the_top_are_classes(tmp_path, gray):
    names = ["b/0.png", "a/x/1.png", "c c/2.png", "a/0.png", "b/1.png"]
    source = write_folder(tmp_path / "s", gray, names)
    (source / "empty").mkdir()
    for path in (source, shutil.make_archive(str(tmp_path / "a"), "zip", source)):
        dataset = open_dataset(path)
        assert dataset.class_names == ("a", "b", "c c")
        assert dataset.labels.tolist() == [0, 0, 1, 1, 2]
        assert [dataset[index][1] for index in range(5)] == [0, 0, 1, 1, 2]
    (source / "top.png").write_bytes(encode(gray[0]))
    assert open_dataset(source).labels is None, "an image without a folder"
    assert open_dataset(source / "b").labels is None
    (source / "top.png").unlink()
    (source / "dataset.json").write_text('{"labels": null}')
    assert open_dataset(source).labels is None, "dataset.json comes first"


def test_images_of_any_shape_are_fitted(tmp_path):
    values = np.arange(1, 61, dtype=np.uint8).reshape(6, 10)
    source = write_folder(tmp_path, [values, np.ascontiguousarray(values.T), values[:, :6]])
    dataset = open_dataset(source)
    assert dataset.notes == ["2 of 3 images are not square, and the middle of each is kept (fit = 'crop')"]
    assert dataset.image_shape == (1, 6, 6)
    for index, middle in enumerate((values[:, 2:8], values.T[2:8], values[:, :6])):
        assert np.array_equal(dataset[index][0][0], middle)
    padded = load_dataset(source, resolution=10, fit="pad").images[:, 0]
    assert np.array_equal(padded[0, 2:8], values)
    assert padded[0, :2].sum() == padded[0, 8:].sum() == 0
    assert np.array_equal(padded[1, :, 2:8], values.T)
    stretched = load_dataset(source, resolution=10, fit="stretch").images[:, 0].int()
    # The edges of the image are at the edges of the square; a crop to 6x6 has 3 and 58 at two corners.
    assert stretched[0, 0, 0] < 3
    assert stretched[0, -1, -1] > 58
    with pytest.raises(DataError, match="unknown fit 'squash'; choose from crop, pad, stretch, refuse"):
        open_dataset(source, fit="squash")


def test_the_smallest_image_gives_the_size_where_none_is_set(tmp_path, rgb):
    source = write_folder(tmp_path, [rgb[0], np.tile(rgb[1], (2, 3, 1)), rgb[2, :5]])
    assert open_dataset(source).image_shape == (3, 5, 5)


def spoil(path, header: bool):
    data = path.read_bytes()
    path.write_bytes(data[:20] if header else data[:-30])


@pytest.mark.parametrize("header", [True, False])
def test_broken_images_are_counted_and_may_be_left_out(tmp_path, gray, refused, caplog, header):
    source = write_folder(tmp_path, gray)
    for index in (1, 2):
        spoil(source / f"{index:03}.png", header)
    sentence = "2 of 5 images cannot be read: remove them, or set skip_broken = true to leave them out."
    with pytest.raises(DataError, match=rf"^'.*001\.png' is .*; {sentence}"):
        load_dataset(source)
    dataset = load_dataset(source, skip_broken=True)
    assert torch.equal(dataset.images[:, 0], torch.from_numpy(gray[[0, 3, 4]]))
    lazy = open_dataset(source, skip_broken=True)
    assert len(lazy) == (3 if header else 5)
    if header:
        (note,) = lazy.notes
        assert note.startswith("2 of 5 images cannot be read and are left out, the first because '")
    else:
        found, _ = lazy.batch([1, 2, 3, 0])
        assert torch.equal(found[:, 0], torch.from_numpy(gray[[3, 3, 3, 0]])), "the next whole one"
        assert caplog.text.count("it is left out, and so are other broken images") == 1
    for index in (0, 3, 4):
        spoil(source / f"{index:03}.png", header)
    refused(source, "broken or truncated", skip_broken=True)


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path):
    """And shows the same: a gradient, of which no reduction changes more than rounding and the quantization do."""
    values = np.linspace(0, 255, 512).astype(np.uint8)
    image = np.stack([np.tile(values, (300, 1)), np.tile(values[:300, None], (1, 512)), np.full((300, 512), 9)], -1)
    data = encode(image.astype(np.uint8), "jpg", quality=95)
    assert decode_image(data, "x", resolution=60).size == (128, 75)
    assert decode_image(data, "x", resolution=121).size == (512, 300)
    whole = np.asarray(fit_image(decode_image(data, "x"), 32)).astype(int)
    reduced = np.asarray(fit_image(decode_image(data, "x", resolution=32), 32)).astype(int)
    assert np.abs(whole - reduced).max() <= 3


def test_unreadable_places(tmp_path, gray, refused, monkeypatch):
    write_folder(tmp_path, gray)
    (tmp_path / "zz.png").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "zz.png", "No such file")
    (tmp_path / "zz.png").unlink()
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused(tmp_path, "locked", "Permission denied", "readable folder")


def test_files_past_the_limit_are_not_read(tmp_path, gray, refused, monkeypatch):
    write_folder(tmp_path / "a", gray)
    write_stylegan_zip(tmp_path / "a.zip", gray)
    for module in (files, archive):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    refused(tmp_path / "a", "000.png", "expected at most 10")
    # dataset.json is the first to be read.
    refused(tmp_path / "a.zip", "dataset.json", "expected at most 10")


LABELED = ["000.png", "001.png", "002.png", "003.png", "004.png"]


def test_labels_of_absent_images_and_backslashes_are_accepted(tmp_path, gray):
    write_folder(tmp_path, gray, [f"a/{name}" for name in LABELED])
    pairs = [[f"a\\{name}", index] for index, name in enumerate(LABELED)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["a/gone.png", 9], *reversed(pairs)]}))
    assert load_dataset(str(tmp_path)).labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["is not JSON"]),
        ("[" * 100_000, ["is not JSON"]),
        (b"\xff\xfe\xfd", ["is not JSON"]),
        ("9" * 5000, ["is not JSON"]),
        ("[]", ["holds no list of labels"]),
        ("{}", ["holds no list of labels"]),
        ({"labels": {"000.png": 1}}, ["holds no list of labels"]),
        ({"labels": ["000.png"]}, ["'000.png'", "among its labels"]),
        ({"labels": [["000.png", 1, 2]]}, ["among its labels"]),
        ({"labels": [[0, 1]]}, ["among its labels"]),
        ({"labels": [[name, [0, 1]] for name in LABELED]}, ["'000.png' with [0, 1]", "one-hot"]),
        ({"labels": [[name, 1.0] for name in LABELED]}, ["'000.png' with 1.0", "integer"]),
        ({"labels": [[name, "cat"] for name in LABELED]}, ["with 'cat'", "integer"]),
        ({"labels": [[name, True] for name in LABELED]}, ["with True", "integer"]),
        ({"labels": [[name, None] for name in LABELED]}, ["with None", "integer"]),
        ({"labels": [[name, -1] for name in LABELED]}, ["with -1", "from 0"]),
        ({"labels": [[name, 2**63] for name in LABELED]}, ["from 0"]),
        ({"labels": [[name, 1] for name in LABELED[:3]]}, ["no label for 2 of 5 images", "'003.png'"]),
        ({"labels": [["000.png", 1], ["000.png", 2]]}, ["'000.png' twice"]),
    ],
)
def test_unusable_labels(tmp_path, gray, refused, content, parts):
    write_folder(tmp_path / "a", gray)
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    (tmp_path / "a" / "dataset.json").write_bytes(data)
    refused(tmp_path / "a", "dataset.json", *parts)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, name in enumerate(LABELED):
            archive.writestr(name, encode(gray[index]))
        archive.writestr("dataset.json", data)
    refused(tmp_path / "a.zip", "'dataset.json' in ", "a.zip", *parts)


def test_labels_below_the_top_are_not_passed_over_in_silence(tmp_path, gray, refused):
    write_folder(tmp_path / "inner", gray)
    (tmp_path / "inner" / "dataset.json").write_text('{"labels": null}')
    refused(tmp_path, "inner/dataset.json", "at the top")


def test_every_suffix_is_decoded(tmp_path):
    image = Image.new("L", (4, 4), 77)
    for suffix in files.SUFFIXES:
        stream = io.BytesIO()
        image.save(stream, Image.registered_extensions()[suffix])
        (tmp_path / f"a{suffix}").write_bytes(stream.getvalue())
    images = load_dataset(str(tmp_path)).images
    # WebP has no grayscale, so the mixture is RGB.
    assert images.shape == (len(files.SUFFIXES), 3, 4, 4)
    assert (images.int() - 77).abs().max() <= 1


@pytest.mark.parametrize("conditional", [False, True])
def test_a_folder_of_photographs_trains_as_it_is(tmp_path, fastgan, conditional):
    """60 of them in color, of mixed shapes and file formats, in folders by class or not."""
    random = np.random.default_rng(0)
    for index in range(60):
        shape = (*random.integers(20, 90, 2), 3)
        pixels = random.integers(0, 256, shape, np.uint8)
        path = tmp_path / "photos" / ("cats" if index % 3 else "dogs") / f"{index}.{('jpg', 'png', 'webp')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels, path.suffix[1:]))
    settings = ["--set", "conditional=true"] if conditional else []
    cheap = ["--steps", 1, "--set", "base_channels=4", "--device", "cpu"]
    code, out, err = fastgan("train", "--data", tmp_path / "photos", "--out", tmp_path / "run", *settings, *cheap)
    assert (code, err) == (0, "")
    assert "with 60 images of" in " ".join(out.split())
    with Image.open(tmp_path / "run" / "samples" / "1.png") as grid:
        assert grid.mode == "RGB"
        assert (grid.height > 8 * 34 + 2) is conditional, "names of the classes"
    assert load_generator(tmp_path / "run").class_names == (["cats", "dogs"] if conditional else None)
