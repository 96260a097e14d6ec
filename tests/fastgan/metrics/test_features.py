import sys
import warnings

import pytest
import torch

from fastgan.data import load_dataset
from fastgan.metrics import MetricsError
from fastgan.metrics.digits import ACCURACY, digit_network
from fastgan.metrics.features import load_features
from tests.fastgan.metrics import digit_sets

CPU = torch.device("cpu")


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.float().mean(dim=(2, 3))


class Both(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.float().mean(dim=(2, 3)), x.float().amax(dim=(2, 3))


class Flat(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.float().mean(dim=3)


def scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return str(path)


def images(channels=3, size=8, count=5):
    return torch.randint(
        256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


# Functions for the choice module:function.
def means(x):
    assert x.dtype == torch.uint8
    return x.float().mean(dim=(2, 3))


def raises(x):
    raise RuntimeError("first line\nno such image")


def with_nan(x):
    return torch.full((len(x), 2), torch.nan)


def integers(x):
    return x.flatten(1)


def a_list(x):
    return [1.0] * len(x)


def test_the_network_of_the_digits_knows_digits_it_has_not_seen():
    from sklearn.model_selection import train_test_split

    labels = digit_sets.digits().labels
    _, held_out = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=0.25, random_state=0, stratify=labels.numpy()
    )
    found = digit_sets.features_of_digits()
    right = (found.logits.argmax(dim=1) == labels)[torch.from_numpy(held_out)].double().mean()
    # An image of 450 whose logits are as good as equal may be judged otherwise by another build of torch.
    assert abs(right - ACCURACY) <= 1.5 / 450
    assert found.values.shape == (1797, 64)
    assert found.values.square().mean() == pytest.approx(1, abs=0.05)
    # No feature is the same for every image.
    assert (found.values.std(dim=0) > 0.01).all()


def test_a_network_is_its_own_and_not_changed():
    first = load_features("digits", CPU)
    assert first.digest == load_features("digits", CPU).digest
    assert not digit_network().training
    assert first.filter == "bicubic to 32x32, antialiased"


@pytest.mark.parametrize("resolution", [8, 28, 64])
def test_digits_of_any_size_have_about_the_same_features(resolution):
    other = load_features("digits", CPU)(load_dataset("digits", resolution=resolution).images[:200]).values
    assert torch.cosine_similarity(other, digit_sets.features_of_digits().values[:200]).min() > 0.95


def test_features_of_points_are_their_coordinates():
    points = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)[:, :, None, None]
    found = load_features("points", CPU)(points)
    assert found.values.tolist() == [[2.5, -2.5], [-2.5, 2.5]]
    assert found.logits is None


def test_a_torchscript_file(tmp_path):
    path = scripted(Means(), tmp_path / "means.pt")
    network = load_features(path, CPU)
    found = network(images())
    assert torch.equal(found.values, means(images()))
    assert found.logits is None
    assert network.name == "means.pt"
    assert len(network.digest) == 64
    both = load_features(scripted(Both(), tmp_path / "both.pt"), CPU)
    assert both.digest != network.digest
    assert torch.equal(both(images()).logits, images().float().amax(dim=(2, 3)))


@pytest.mark.filterwarnings("error")
def test_a_torchscript_file_is_read_without_torchs_deprecation(tmp_path):
    path = scripted(Means(), tmp_path / "means.pt")
    load_features(path, CPU)(images())


def test_a_function():
    network = load_features(f"{__name__}:means", CPU)
    assert torch.equal(network(images()).values, means(images()))
    assert network.name == f"{__name__}:means"


def test_a_function_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_features.py").write_text("def first_pixel(x):\n    return x[:, :, 0, 0].float()\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_features("my_own_features:first_pixel", CPU)(images()).values, images()[:, :, 0, 0].float())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet", "unknown features 'resnet'; choose from 'digits', 'points', 'inception', a"),
        ("", "unknown features ''"),
        (":f", "features ':f' names no function"),
        ("no_such_module:f", "module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named"),
        ("math:no_such", "module 'math' has no function 'no_such'"),
        ("math:pi", "module 'math' has no function 'pi'"),
        ("JUNK", "is not a TorchScript file: "),
        ("EMPTY", "is not a TorchScript file: "),
        ("PICKLE", "is not a TorchScript file: "),
    ],
)
def test_what_is_no_features_is_refused(tmp_path, name, sentence):
    (tmp_path / "JUNK").write_bytes(b"junk" * 100)
    (tmp_path / "EMPTY").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, tmp_path / "PICKLE")
    path = tmp_path / name
    with pytest.raises(MetricsError) as caught:
        load_features(str(path) if name and path.is_file() else name, CPU)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (
            "digits",
            images(3),
            "images of one channel and at least 8x8, and these are images of 3 channels and 8x8",
        ),
        ("digits", images(1, 4), "these are images of 1 channel and 4x4 pixels"),
        ("points", images(1), "features 'points' take points of the plane, and these are images of 1 channel and 8x8"),
        (f"{__name__}:raises", images(), "fail on images of shape [5, 3, 8, 8]: RuntimeError: no such image"),
        (f"{__name__}:with_nan", images(), "give features that are infinite or not a number"),
        (f"{__name__}:integers", images(), "give features of torch.uint8, expected a floating-point type"),
        (f"{__name__}:a_list", images(), "give features list for 5 images, expected [5, F]"),
        ("FLAT", images(), "give features of shape [5, 3, 8] for 5 images, expected [5, F]"),
    ],
)
def test_images_and_answers_that_do_not_fit_are_refused(tmp_path, name, given, sentence):
    name = scripted(Flat(), tmp_path / "flat.pt") if name == "FLAT" else name
    with pytest.raises(MetricsError) as caught:
        load_features(name, CPU)(given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_are_only_for_inception(tmp_path):
    with pytest.raises(MetricsError, match="expected them only for 'inception'"):
        load_features("digits", CPU, weights=tmp_path / "x.pth")
