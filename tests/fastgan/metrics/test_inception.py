"""The published Inception; with weights of chance, since the real ones are a download."""

import pickle
import sys
import types

import pytest
import torch

from fastgan.metrics import MetricsError
from fastgan.metrics.features import load_features

CPU = torch.device("cpu")


def test_without_torch_fidelity_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MetricsError, match=r"pip install -e '\.\[evaluation\]', beside the torchvision"):
        load_features("inception", CPU)


def test_a_torchvision_of_another_build_is_named(monkeypatch, tmp_path):
    """The one that pip installs beside the CPU build of torch is of the CUDA build."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MetricsError, match=r"torchvision::nms.*beside the torchvision of your build of torch"):
        load_features("inception", CPU)


@pytest.fixture(scope="module")
def weights(torch_fidelity, tmp_path_factory):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def test_features_and_logits_of_gray_and_color(weights):
    network = load_features("inception", CPU, weights=weights)
    gray = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    found = network(gray)
    assert found.values.shape == (3, 2048)
    assert found.logits.shape == (3, 1008)
    assert torch.equal(found.values, network(gray.repeat(1, 3, 1, 1)).values)
    assert network.digest == load_features("inception", CPU, weights=weights).digest
    with pytest.raises(MetricsError, match="take gray or RGB images, and these have 2 channels"):
        network(gray.repeat(1, 2, 1, 1))


class Harmful:
    def __reduce__(self):
        return print, ("this ran",)


def test_files_that_are_no_weights_are_refused(weights, tmp_path, capsys):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    for name in ("none.pth", "junk.pth", "code.pth", "other.pth", "tensor.pth"):
        sentence = "holds a Tensor, expected" if name == "tensor.pth" else "does not hold"
        with pytest.raises(MetricsError, match=f"{sentence} the weights of Inception") as caught:
            load_features("inception", CPU, weights=tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "this ran" not in capsys.readouterr().out


def test_code_in_a_weights_file_never_runs_whatever_torch_fidelity_does(monkeypatch, tmp_path, capsys):
    def unpickle(*_, feature_extractor_weights_path):
        torch.load(feature_extractor_weights_path, weights_only=False)

    package = types.SimpleNamespace(FeatureExtractorInceptionV3=unpickle)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", package)
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(MetricsError, match="does not hold the weights of Inception"):
        load_features("inception", CPU, weights=tmp_path / "code.pth")
    assert "this ran" not in capsys.readouterr().out


def test_a_failed_download_is_reported(torch_fidelity, monkeypatch):
    from urllib.error import URLError

    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", fail)
    with pytest.raises(MetricsError, match=r"downloaded \(.*no network.*\); give the published file with --weights"):
        load_features("inception", CPU)
