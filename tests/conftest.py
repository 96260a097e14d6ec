"""Where there is no GPU the kernels run in Triton's interpreter, chosen before the first import of triton."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
import triton.runtime.interpreter as interpreter
from hypothesis import HealthCheck, settings

# Kernels in the interpreter, and compilation on a chip, take far longer than hypothesis expects of an example.
settings.register_profile(
    "fastgan", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("fastgan")


def patch_the_language_once_a_launch() -> None:
    """Spares the interpreter most of its time: a 2.5th of it remains for kernels that call others in a loop.

    It patches triton.language anew at each call of a jit function by another, tl.sum and tl.zeros included, although
    what the launch patched is still in place. Here the first call from each module does, for each launch.
    """
    patched: set[int] = set()
    launch = interpreter.GridExecutor.__call__

    def launch_afresh(self, *args, **kwargs):
        patched.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        module = id(self.fn.__globals__)
        if module not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(module)
        return self.rewrite()(*args, **kwargs)

    interpreter.GridExecutor.__call__ = launch_afresh
    interpreter.InterpretedFunction.__call__ = call


if not torch.cuda.is_available():
    patch_the_language_once_a_launch()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
