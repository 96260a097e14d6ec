import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgan_kernels
from fastgan.exporting import describe_program, export_onnx, export_program, export_torch, programs
from fastgan.sampling import draw_latents

# What is left of float32 after sums in another order: the products of a row or a 3x3 patch times the widest layer, over
# all layers, of values of the size of 1.
_SUMS = {"vanilla": 128 + 256 + 512 + 784, "conditional": 4 * 9 * 32, "stylegan": (8 + 6) * 9 * 4}

ELSEWHERE = """
import sys
for name in ("fastgan", "fastgan_kernels"):
    sys.modules[name] = None
import torch
program = torch.export.load(sys.argv[1]).module()
inputs, expected = torch.load(sys.argv[2])
for each, images in zip(inputs, expected):
    assert torch.equal(program(*each), images)
"""


def names_of_ops(program):
    modules = program.graph_module.modules()
    return {str(node.target) for m in modules if isinstance(m, torch.fx.GraphModule) for node in m.graph.nodes}


# The programs run in a process of their own, which takes seconds to import torch.
@pytest.mark.parametrize("name", ["vanilla", pytest.param("stylegan", marks=pytest.mark.exhaustive)])
def test_a_program_runs_where_there_is_no_fastgan(make_generator, tmp_path, name):
    generator = make_generator(name)
    assert export_torch(generator, tmp_path / "a.pt2") == 0
    latents = [draw_latents(count, 6, seed=1) for count in (1, 5, 19)]
    inputs, expected = [(z,) for z in latents], [generator(z) for z in latents]
    if name == "stylegan":
        inputs = [(z, torch.tensor(psi)) for z, psi in zip(latents, (1.0, 0.3, 0.0), strict=True)]
        expected = [generator(z, truncation=float(psi)) for z, psi in inputs]
    torch.save((inputs, expected), tmp_path / "expected.pt")
    files = [str(tmp_path / name) for name in ("a.pt2", "expected.pt")]
    result = subprocess.run([sys.executable, "-c", ELSEWHERE, *files], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_program_has_no_op_of_ours_and_no_path_of_this_machine(make_generator, tmp_path):
    generator = make_generator("vanilla")
    program = export_program(generator)
    assert not [name for name in names_of_ops(program) if "fastgan" in name]
    assert "aten.leaky_relu.default" in names_of_ops(program)  # of an op that is fused elsewhere
    assert export_torch(generator, tmp_path / "a.pt2") == 0
    assert str(Path(__file__).parents[3]).encode() not in (tmp_path / "a.pt2").read_bytes()


def test_an_op_of_ours_in_a_program_is_noticed(make_generator, monkeypatch):
    from fastgan_kernels import autograd

    generator = make_generator("vanilla")
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: False)
    assert autograd.guard_second_order(torch.ones(1)) is not None
    with pytest.raises(RuntimeError, match=r"the exported program calls fastgan\.guarded"):
        export_program(generator)


def test_a_program_with_other_images_is_deleted(make_generator, tmp_path, monkeypatch):
    generator = make_generator("vanilla")
    other = export_program(make_generator("vanilla"))
    monkeypatch.setattr(programs, "export_program", lambda _: other)
    generator.layers[8].bias += 0.02
    with pytest.raises(RuntimeError, match=r"^the program in a\.pt2 differs from the generator by 0\.0\d+ and is not"):
        export_torch(generator, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def test_the_choice_of_a_backend_is_as_it_was_before(make_generator):
    export_program(make_generator("vanilla"))
    reason = fastgan_kernels.backend_of("bias_act", torch.empty(0)).reason
    assert "asked for" not in reason


@pytest.mark.exhaustive
def test_a_conditional_generator_takes_labels(make_generator, tmp_path):
    generator = make_generator("conditional")
    assert export_torch(generator, tmp_path / "a.pt2") == 0
    program = torch.export.load(tmp_path / "a.pt2").module()
    latents = draw_latents(3, 6, seed=0)
    images = [program(latents, torch.full((3,), label)) for label in range(3)]
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images[2], generator(latents, torch.full((3,), 2)))


def test_a_program_is_described_with_its_inputs(make_generator):
    sentence = describe_program(make_generator("conditional"), "onnx", "a.onnx", 1e-6)
    assert "takes latents float32 [N, 6], labels int64 [N], for any N from 1," in sentence
    assert "at batch sizes 1, 2, 7, 16 the largest difference of a pixel, whose range is 2, from the " in sentence
    assert sentence.endswith(" was 1e-06.")
    assert "truncation float32 [] (0 to 1)" in describe_program(make_generator("stylegan"), "torch", "a.pt2", 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", _SUMS)
def test_an_onnx_program_gives_the_same_images(make_generator, tmp_path, name):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    difference = export_onnx(make_generator(name), tmp_path / "a.onnx")
    assert difference <= _SUMS[name] * torch.finfo(torch.float32).eps
    model = onnx.load(tmp_path / "a.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    assert str(Path(__file__).parents[3]).encode() not in (tmp_path / "a.onnx").read_bytes()
