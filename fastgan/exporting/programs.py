"""Exports a generator to programs that run without fastgan: torch.export and ONNX.

Inputs: ``latents``, float32 [N, latent_dim], N at least 1; for a conditional generator ``labels``, int64 [N]; for a
generator with styles ``truncation``, the psi of all layers, float32 []. Output: ``images``, float32 [N, C, H, W] in
[-1, 1]. Noise is constant, and values are clamped only where the generator clamps them.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import fastgan_kernels
from fastgan.errors import first_line, writing
from fastgan.exporting.folder import ModelFolderError
from fastgan.extras import require_onnx
from fastgan.random_state import preserved_random_state
from fastgan.sampling import draw_latents, labels_in_turn

# Batch sizes of the check: a single image, even and odd sizes, and more than the two images of the trace.
BATCH_SIZES = (1, 2, 7, 16)
_TRUNCATIONS = (1.0, 0.7)
# Half a step of an 8-bit pixel in [-1, 1].
_TOLERANCE = 1 / 255
_SHAPES = {"latents": "float32 [N, {0.latent_dim}]", "labels": "int64 [N]", "truncation": "float32 [] (0 to 1)"}


class _WithTruncation(nn.Module):
    """A generator with styles, whose truncation is a tensor input."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor, truncation: Tensor) -> Tensor:
        w = self.generator.truncate(self.generator.mapping(latents), truncation)
        return self.generator.synthesis(self.generator.styles(w), noise="constant")


@preserved_random_state()
def export_program(generator: nn.Module) -> ExportedProgram:
    """Traces a generator on the CPU in evaluation mode; the program has plain torch in place of fastgan's ops.

    Raises:
        ModelFolderError: for a generator that ``torch.export`` cannot trace; one sentence.
    """
    inputs = _inputs(generator, 2)
    batch = Dim("batch", min=1)
    with torch.no_grad(), fastgan_kernels.use_backend("reference"), _quiet():
        try:
            program = torch.export.export(
                _module(generator),
                tuple(inputs.values()),
                dynamic_shapes=[{0: batch} if tensor.dim() else {} for tensor in inputs.values()],
            )
        except Exception as error:  # the user's network may raise any type
            raise ModelFolderError(
                f"torch.export cannot trace {type(generator).__name__}: {type(error).__name__}: {first_line(error)}"
            ) from error
    modules = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for module in modules:
        for node in module.graph.nodes:
            if str(node.target).startswith("fastgan"):
                raise RuntimeError(f"the exported program calls {node.target}")
            # A stack trace contains paths of this machine.
            node.meta.pop("stack_trace", None)
    return program


@preserved_random_state()
def export_torch(generator: nn.Module, path: Path) -> float:
    """Writes ``torch.export``'s program to a .pt2 file, reads it back and checks it.

    Returns:
        The largest difference of a pixel, in [-1, 1], from the generator's images at ``BATCH_SIZES``.

    Raises:
        ModelFolderError: if the generator cannot be traced or the file cannot be written; one sentence.
        RuntimeError: if the program's images differ; the file is deleted.
    """
    with writing(f"file {str(path)!r}", ModelFolderError), _quiet():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(export_program(generator), path)
    program = torch.export.load(path).module()
    return _checked(generator, lambda inputs: program(*inputs.values()), path)


@preserved_random_state()
def export_onnx(generator: nn.Module, path: Path) -> float:
    """Writes a program for ONNX runtimes and checks it in onnxruntime, on the CPU.

    Returns:
        As :func:`export_torch`.

    Raises:
        MissingExtraError: without onnx, onnxscript and onnxruntime; one sentence.
        ModelFolderError, RuntimeError: as :func:`export_torch`.
    """
    onnxruntime = require_onnx()
    names = list(_inputs(generator, 1))
    with writing(f"file {str(path)!r}", ModelFolderError), _quiet():
        path.parent.mkdir(parents=True, exist_ok=True)
        program = torch.onnx.export(export_program(generator), input_names=names, output_names=["images"], dynamo=True)
        program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> Tensor:
        (images,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(images)

    return _checked(generator, run, path)


def describe_program(generator: nn.Module, format: str, file: str, difference: float) -> str:
    """A sentence for the card: call, inputs and error of the program in ``file``, with ``format`` "torch" or "onnx"."""
    inputs = ", ".join(f"{name} {_SHAPES[name].format(generator)}" for name in _inputs(generator, 1))
    call = {
        "torch": f"torch.export.load({file!r}).module()(...)",
        "onnx": f"onnxruntime.InferenceSession({file!r}).run(None, {{...}})",
    }
    return (
        f"`{file}`: `{call[format]}` takes {inputs}, for any N from 1, and returns images float32 [N, C, H, W]; at "
        f"batch sizes {', '.join(map(str, BATCH_SIZES))} the largest difference of a pixel, whose range is 2, from the "
        f"generator's was {difference:.2g}."
    )


def _module(generator: nn.Module) -> nn.Module:
    return _WithTruncation(generator) if hasattr(generator, "truncate") else generator


def _inputs(generator: nn.Module, count: int, truncation: float = 1.0) -> dict[str, Tensor]:
    inputs = {"latents": draw_latents(count, generator.latent_dim, seed=count)}
    if generator.num_classes is not None:
        inputs["labels"] = labels_in_turn(count, generator.num_classes)
    if hasattr(generator, "truncate"):
        inputs["truncation"] = torch.tensor(truncation)
    return inputs


@torch.no_grad()
def _checked(generator: nn.Module, run: Callable[[dict[str, Tensor]], Tensor], path: Path) -> float:
    module = _module(generator)
    differences = []
    for count in BATCH_SIZES:
        for truncation in _TRUNCATIONS:
            inputs = _inputs(generator, count, truncation)
            differences.append((run(inputs) - module(*inputs.values())).abs().max().item())
    largest = max(differences)
    if not largest <= _TOLERANCE:
        path.unlink()
        raise RuntimeError(f"the program in {path.name} differs from the generator by {largest:.2g} and is not kept")
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporters' progress and torch's deprecation warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
