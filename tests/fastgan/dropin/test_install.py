"""What install replaces in this process, before and after the modules were imported."""

import importlib
import os
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch

import fastgan.dropin
from fastgan.dropin import finder
from tests.fastgan.dropin import trees

# Modules that can be imported, and whose functions compute something else than ours.
OLD = """
import functools
enabled = False
palette = functools.lru_cache

def {function}(*args, **kwargs):
    return "old"
"""
OLD_FUSED_ACT = """
import torch

def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    return "old"

class FusedLeakyReLU(torch.nn.Module):
    def forward(self, input):
        return fused_leaky_relu(input)
"""


def is_ours(module):
    return module.__file__.startswith(os.path.dirname(fastgan.dropin.__file__))


def test_modules_of_both_families_are_served_under_their_names(tree):
    trees.nvidia(tree)
    trees.rosinality(tree)
    fastgan.dropin.install()
    for package, family in finder.DEFAULT_PACKAGES.items():
        for name in finder.FAMILIES[family]:
            module = importlib.import_module(f"{package}.{name}")
            assert is_ours(module)
            assert module.__name__ == f"{package}.{name}"
    from op import FusedLeakyReLU, upfirdn2d
    from torch_utils.ops import bias_act

    assert bias_act.bias_act(torch.tensor([[-1.0]]), act="lrelu", gain=1).item() == pytest.approx(-0.2)
    assert upfirdn2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1)).sum() == 4
    # Pickled under the name of the original, which can load it as well.
    layer = pickle.loads(pickle.dumps(FusedLeakyReLU(3)))
    assert type(layer).__module__ == "op.fused_act"


def test_modules_that_are_not_served_stay(tree):
    trees.nvidia(tree)
    trees.rosinality(tree)
    fastgan.dropin.install()
    import op.palette
    import torch_utils.ops.palette

    assert (torch_utils.ops.palette.COLORS, op.palette.COLORS) == (3, 4)
    assert not is_ours(torch_utils.ops.palette)


@pytest.mark.parametrize("imported_before", [False, True])
def test_a_package_that_is_only_called_op_is_left(tree, imported_before):
    trees.write(tree, {"op/__init__.py": "", "op/upfirdn2d.py": "mine = 1\n"})
    if imported_before:
        importlib.import_module("op.upfirdn2d")
    fastgan.dropin.install()
    assert importlib.import_module("op.upfirdn2d").mine == 1
    assert not is_ours(sys.modules["op.upfirdn2d"])


def test_modules_that_were_imported_before_are_changed_in_place_and_copies_replaced(tree, capsys):
    trees.nvidia(tree, text=OLD.format(function="nothing"))
    for name in finder.FAMILIES["nvidia"]:
        trees.write(tree, {f"torch_utils/ops/{name}.py": OLD.format(function=name)})
    trees.write(tree, {"networks.py": "from torch_utils.ops.fma import fma\nfrom torch_utils.ops import bias_act\n"})
    modules = {name: importlib.import_module(f"torch_utils.ops.{name}") for name in finder.FAMILIES["nvidia"]}
    networks = importlib.import_module("networks")
    one = torch.ones(1)
    assert networks.fma(one, one, one) == "old"
    fastgan.dropin.install()
    for name, module in modules.items():
        assert sys.modules[f"torch_utils.ops.{name}"] is module
        assert is_ours(module)
    assert networks.fma is modules["fma"].fma
    assert networks.fma(one, one, one) == 2
    assert networks.bias_act.bias_act(one).item() == 1
    said = capsys.readouterr().err
    assert "7 were imported before and changed in place" in said
    assert "1 copies of their functions" in said


def test_copies_in_the_package_and_layers_that_exist_run_ours(tree):
    trees.rosinality(tree, text="def upfirdn2d(*args): return 'old'\n")
    trees.write(tree, {"op/fused_act.py": OLD_FUSED_ACT})
    import op

    layer, x = op.FusedLeakyReLU(), torch.tensor([[-1.0]])
    assert layer(x) == "old"
    fastgan.dropin.install()
    assert op.upfirdn2d is sys.modules["op.upfirdn2d"].upfirdn2d
    assert op.FusedLeakyReLU is sys.modules["op.fused_act"].FusedLeakyReLU
    torch.testing.assert_close(op.FusedLeakyReLU(1)(x), x * 0.2 * 2**0.5)
    torch.testing.assert_close(layer(x), x * 0.2 * 2**0.5)


def test_other_objects_of_a_changed_module_are_left_where_others_hold_them(tree):
    trees.nvidia(tree, text=OLD.format(function="fma"))
    import functools

    before = functools.lru_cache, functools.partial
    importlib.import_module("torch_utils.ops.fma")
    fastgan.dropin.install()
    assert (functools.lru_cache, functools.partial) == before


@pytest.mark.parametrize("make", [trees.nvidia, trees.rosinality])
def test_either_family_is_taken_under_another_name(tree, make):
    # The parent would import the ops, and fail: it is not imported to look for them.
    make(tree, "models.stylegan2.op")
    trees.write(tree, {"models/__init__.py": "", "models/stylegan2/__init__.py": "from . import op\n"})
    fastgan.dropin.install(package="models.stylegan2.op")
    assert "models" not in sys.modules
    assert is_ours(importlib.import_module("models.stylegan2.op.upfirdn2d"))
    assert set(finder._finder.packages) == {"models.stylegan2.op"}


def test_a_package_whose_modules_are_folders_is_taken(tree):
    # As BasicSR has it: basicsr/ops/fused_act/__init__.py.
    trees.write(tree, {"restorer/__init__.py": "", "restorer/ops/fused_act/__init__.py": trees.RAISING})
    fastgan.dropin.install(package="restorer.ops")
    from restorer.ops.fused_act import FusedLeakyReLU

    assert FusedLeakyReLU(2).bias.shape == (2,)


def test_a_package_with_neither_is_an_error(tree):
    trees.write(tree, {"models/__init__.py": "", "models/ops/__init__.py": ""})
    with pytest.raises(ValueError, match=r"models\.ops holds neither bias_act\.py .* nor fused_act\.py"):
        fastgan.dropin.install(package="models.ops")
    assert finder._finder.packages == {}


@pytest.mark.parametrize(
    ("package", "missing"),
    [
        ("nowhere", "nowhere"),
        ("models.nowhere.op", "models.nowhere"),
        ("models.plain", "models.plain"),
        ("models_imported", "models_imported"),
    ],
)
def test_a_module_or_a_package_that_is_not_there_is_an_error(tree, package, missing):
    trees.write(tree, {"models/__init__.py": "", "models/plain.py": ""})
    sys.modules["models_imported"] = types.ModuleType("models_imported")
    with pytest.raises(ModuleNotFoundError, match=f"no package is called {missing}; expected"):
        fastgan.dropin.install(package=package)


def test_it_says_once_what_was_replaced_and_on_what_it_runs(tree, capsys):
    trees.nvidia(tree)
    fastgan.dropin.install()
    out, said = capsys.readouterr()
    assert out == ""
    page = (Path(__file__).parents[3] / "docs" / "dropin.md").read_text()
    *lines, backend = said.splitlines()
    assert len(lines) == 3
    assert "\n".join(lines) in page
    assert "the ops run" in backend
    importlib.import_module("torch_utils.ops.fma")
    fastgan.dropin.install()
    assert capsys.readouterr() == ("", "")
    trees.rosinality(tree, "models.op")
    fastgan.dropin.install("models.op")
    assert "models.op: fused_act" in capsys.readouterr().err


def test_of_several_ranks_the_first_one_speaks(tree, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    fastgan.dropin.install()
    assert capsys.readouterr().err == ""


def test_a_gpu_is_counted_without_being_initialized(tree, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    fastgan.dropin.install()
    assert "Triton kernels on a GPU that Triton supports" in (said := capsys.readouterr().err)
    assert "torch sees 2 GPUs\n" in said
    assert not torch.cuda.is_initialized()


def test_children_inherit_by_the_environment(tree, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    fastgan.dropin.install()
    # An empty entry would be the current folder.
    assert os.environ["PYTHONPATH"] == finder.STARTUP
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["here", finder.STARTUP]))
    trees.rosinality(tree, "models.op")
    fastgan.dropin.install("models.op")
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [finder.STARTUP, "here"]
    packages = dict(finder._finder.packages)
    finder._finder.packages.clear()
    finder.serve_inherited()
    assert finder._finder.packages == packages == finder.DEFAULT_PACKAGES | {"models.op": "rosinality"}
