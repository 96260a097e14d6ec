"""Checks the user's networks before the first step, by trying them out; random state and buffers are restored."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastgan
import fastgan_kernels
from fastgan.errors import first_line
from fastgan.losses import Loss
from fastgan.random_state import preserved_random_state
from fastgan.sampling import render
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.precision import Precision

# Packages whose code is not the user's.
_NOT_THEIRS = tuple(
    f"{Path(path).parent}{os.sep}" for path in (torch.__file__, fastgan.__file__, fastgan_kernels.__file__)
)
_LIKE_A_VIEW = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze")


def is_theirs(filename: str) -> bool:
    """Whether a file is the user's: neither torch's nor fastgan's."""
    return not filename.startswith((*_NOT_THEIRS, "<"))


def line_of(error: BaseException) -> str:
    """The innermost line of the user's code in an error's stack, as `` (FILE:LINE)``; empty where there is none."""
    # An error of torch.compile carries the stack of the code that it traced.
    frames = getattr(error, "real_stack", None) or traceback.extract_tb(error.__traceback__)
    theirs = [f" ({Path(frame.filename).name}:{frame.lineno})" for frame in frames if is_theirs(frame.filename)]
    return theirs[-1] if theirs else ""


def check_placement(generator: nn.Module, discriminator: nn.Module, device: torch.device) -> None:
    """Refuses networks that have no parameters to train, or that are neither on the CPU nor on the run's device."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not any(p.requires_grad for p in network.parameters()):
            raise SettingsError(f"the {name} has no parameter that requires gradients, expected some to train")
        for tensor_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.device not in (torch.device("cpu"), device):
                raise SettingsError(
                    f"{tensor_name} of the {name} is on {tensor.device}, and the run on {device}; expected networks on "
                    "the CPU or on the device of the run, which the setting device chooses"
                )


class Tryout:
    """Runs the user's networks on one batch, in the precision of the settings, with gradients but no update.

    Each call restores random state and buffers, and raises SettingsError, one sentence, for networks that cannot be
    trained. The networks are on the run's device; ``batch_size`` is that of a forward pass.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        precision: Precision,
        config: TrainingConfig,
        batch_size: int,
    ) -> None:
        self._networks = {"generator": generator.train(), "discriminator": discriminator.train()}
        self._precision = precision
        device = next(generator.parameters()).device
        self._latents = torch.zeros(batch_size, config.latent_dim, device=device, dtype=precision.dtype)
        self._labels = torch.zeros(batch_size, dtype=torch.int64, device=device) if config.conditional else None

    def image_shape(self) -> tuple[int, int, int]:
        """Shape [C, S, S] of the generator's images."""
        with self._without_a_trace(), torch.no_grad():
            images = self._generate()
        return tuple(images.shape[1:])

    def check(
        self, image_shape: tuple[int, int, int], data: str, num_classes: int | None, loss: Loss
    ) -> tuple[list[str], list[str]]:
        """Checks the networks on images [C, S, S] like those of the data with this name.

        Returns:
            One sentence per network with parameters that get no gradient, and one per buffer that changes but is not
            saved; either may be intended.
        """
        count = len(self._latents)
        self._latents.normal_(generator=torch.Generator(self._latents.device).manual_seed(0))
        if num_classes is not None:
            self._labels = torch.arange(count, device=self._latents.device) % num_classes
        with self._without_a_trace() as before:
            fake = self._generate()
            if fake.shape[1:] != image_shape:
                raise SettingsError(
                    f"the generator makes images {list(fake.shape[1:])}, and those of {data} are {list(image_shape)}; "
                    "expected both as [C, S, S]"
                )
            real = self._precision.images(torch.rand_like(fake) * 2 - 1)
            real_logits, fake_logits = self._logits(real), self._logits(fake)
            if loss.takes_logits and _is_of_sigmoid(fake_logits):
                named = self._networks["discriminator"].named_modules()
                layers = [name for name, module in named if isinstance(module, nn.Sigmoid)]
                raise SettingsError(
                    f"the discriminator ends in a sigmoid{f' ({layers[-1]})' if layers else ''}, and the loss takes "
                    "logits; remove the sigmoid, or give functions of your own as the loss"
                )
            total = fake_logits.float().sum() + real_logits.float().sum()
            networks = self._networks.items()
            unused = [note for name, network in networks for note in _without_gradient(name, network, total)]
            unsaved = [note for name, network in networks for note in _not_saved(name, network, before)]
            given = "16 latents in evaluation mode, in which samples are drawn,"
            labels = None if self._labels is None else self._labels[:1]
            self._call("generator", given, self._latents[:1], labels, run=render)
        return unused, unsaved

    def _generate(self) -> Tensor:
        count = len(self._latents)
        given = f"{count} latents {list(self._latents.shape)}"
        images = self._call("generator", given, self._latents, self._labels)
        square = isinstance(images, Tensor) and images.dim() == 4 and images.shape[2] == images.shape[3]
        if not square or len(images) != count or not images.is_floating_point():
            raise SettingsError(
                f"the generator maps {given} to {_description(images)}, expected images [{count}, C, S, S]"
            )
        return images.to(self._precision.dtype)

    def _logits(self, images: Tensor) -> Tensor:
        given = f"{len(images)} images {list(images.shape)}"
        logits = self._call("discriminator", given, images, self._labels)
        if not isinstance(logits, Tensor) or logits.dim() == 0 or len(logits) != len(images):
            raise SettingsError(
                f"the discriminator maps {given} to {_description(logits)}, expected logits of each image: "
                f"[{len(images)}], [{len(images)}, 1] or maps [{len(images)}, 1, h, w]"
            )
        return logits

    def _call(self, name: str, given: str, *inputs: Tensor | None, run: Callable[..., Any] | None = None) -> Any:
        network, inputs = self._networks[name], [tensor for tensor in inputs if tensor is not None]
        try:
            with self._precision.autocast():
                return network(*inputs) if run is None else run(network, *inputs)
        except Exception as error:
            with_labels = "" if self._labels is None else " with labels"
            raise SettingsError(
                f"the {name} cannot take {given}{with_labels}: {first_line(error)}{line_of(error)}"
            ) from error

    @contextmanager
    def _without_a_trace(self) -> Iterator[dict[tuple[str, str], Tensor]]:
        networks = self._networks.items()
        buffers = {(kind, name): b for kind, network in networks for name, b in network.named_buffers()}
        before = {key: buffer.clone() for key, buffer in buffers.items()}
        with preserved_random_state():
            yield before
        for kind, network in networks:
            for name, buffer in network.named_buffers():
                if buffer is not buffers.get((kind, name)):
                    raise SettingsError(
                        f"the {kind} replaces its buffer {name} when it runs; expected it to be written in place"
                    )
        with torch.no_grad():
            for key, value in before.items():
                buffers[key].copy_(value)


def _without_gradient(name: str, network: nn.Module, total: Tensor) -> list[str]:
    trained = {key: p for key, p in network.named_parameters() if p.requires_grad}
    gradients = [None] * len(trained)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, list(trained.values()), retain_graph=True, allow_unused=True)
    unused = [key for key, gradient in zip(trained, gradients, strict=True) if gradient is None]
    if len(unused) == len(trained):
        raise SettingsError(
            f"no parameter of the {name} gets a gradient from the discriminator's output; do not detach anything, nor "
            "run the networks under torch.no_grad"
        )
    if not unused:
        return []
    return [f"{len(unused)} of {len(trained)} parameters of the {name} get no gradient, the first of them {unused[0]}"]


def _not_saved(name: str, network: nn.Module, before: dict[tuple[str, str], Tensor]) -> list[str]:
    saved = network.state_dict().keys()
    return [
        f"buffer {key} of the {name} changes when it runs and is not saved (persistent=False), so a resumed run begins "
        "with it anew"
        for key, buffer in network.named_buffers()
        if key not in saved and (name, key) in before and not torch.equal(buffer, before[name, key])
    ]


def _is_of_sigmoid(logits: Tensor) -> bool:
    """Whether the last operation is a sigmoid, by the autograd graph: logits may lie in [0, 1] too."""
    node = logits.grad_fn
    while node is not None and node.name().startswith(_LIKE_A_VIEW):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")


def _description(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    return f"a {type(output).__name__}"
