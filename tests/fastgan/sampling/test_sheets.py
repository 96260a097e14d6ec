import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import to_uint8
from fastgan.sampling import Sheet, check_output, save_animation, write_sheet

IMAGES = torch.rand(6, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
SHEET = Sheet(IMAGES, 3, ["0", "1"], ["-1", "0", "1"], {"seed": 5, "values": np.arange(3.0)})


def test_a_png_is_a_grid_with_names(tmp_path):
    assert write_sheet(SHEET, tmp_path / "a.png") == [tmp_path / "a.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 3 * 42 + 2
        assert image.height > 2 * 42 + 2
        right = np.asarray(image)[-44:-2, -42:]
    assert np.array_equal(right[2:, :40], to_uint8(IMAGES[5, 0]).numpy())


@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_a_jpeg_is_the_same_grid(tmp_path, suffix):
    check_output(tmp_path / f"a.{suffix}")
    write_sheet(SHEET, tmp_path / f"a.{suffix}")
    write_sheet(SHEET, tmp_path / "a.png")
    with Image.open(tmp_path / f"a.{suffix}") as image, Image.open(tmp_path / "a.png") as exact:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image, int) - np.asarray(exact, int)).mean() < 5


def test_arrays_hold_the_images_and_what_they_are_of(tmp_path):
    write_sheet(SHEET, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["images"], to_uint8(IMAGES).numpy())
        assert arrays["seed"] == 5
        assert arrays["values"].tolist() == [0, 1, 2]


def test_arrays_of_points_are_points_of_the_plane(tmp_path):
    write_sheet(Sheet(torch.tensor([[1.0, -0.5]])[:, :, None, None]), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["points"].tolist() == [[2.5, -1.25]]


def test_an_animation_goes_there_and_back_with_the_rows_side_by_side(tmp_path):
    write_sheet(SHEET, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert (animation.n_frames, animation.info["duration"], animation.info["loop"]) == (4, 80, 0)
        frames = []
        for i in range(4):
            animation.seek(i)
            frames.append(np.asarray(animation.convert("L")))
    factor = 2  # 2 * 42 + 2 = 86 pixels are enlarged to at least 128
    assert frames[0].shape == (44 * factor, 86 * factor)
    pixels = to_uint8(IMAGES[:, 0]).numpy()
    for frame, column in zip(frames, (0, 1, 2, 1), strict=True):
        small = frame[::factor, ::factor]
        assert np.array_equal(small[2:42, 2:42], pixels[column])
        assert np.array_equal(small[2:42, 44:84], pixels[3 + column])


def test_an_mp4_has_all_frames_in_color_of_even_size(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    frames = [torch.full((1, 31, 257), value, dtype=torch.uint8) for value in (20, 220, 120)]
    save_animation(frames, tmp_path / "a.mp4")
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        found = [np.asarray(frame) for frame in reader]
        assert reader.get_meta_data()["fps"] == 12.5
    assert [frame.shape for frame in found] == [(32, 258, 3)] * 3
    # H.264 keeps a flat gray to a few levels of 255.
    assert [round(float(frame[4:20, 20:200].mean()), -1) for frame in found] == [20, 220, 120]


def test_formats_of_animations_and_folders_are_made_ready(tmp_path):
    check_output(tmp_path / "new" / "a.gif", animation=True)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    (tmp_path / "v1.2").mkdir()
    check_output(tmp_path / "v1.2")
    check_output(tmp_path / "other")
    assert (tmp_path / "other").is_dir()
