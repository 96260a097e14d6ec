"""A whole step of training or a part of a network: what a model feels of the ops, against plain torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.passes import Call
from benchmarks.registry import Problem, key_of
from benchmarks.results import Row

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Setting:
    """What a provider is built for.

    ``bfloat16`` is what training calls so: float32 weights and images under autocast (:meth:`autocast`).
    """

    problem: Problem
    dtype_name: str
    device: torch.device
    compile_backend: str

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.float64 if self.dtype_name == "float64" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype_name == "bfloat16")


@dataclass(frozen=True)
class Step:
    """A step, its problems and its providers.

    Args:
        name: of the column ``op``.
        pass_: of the column ``pass``.
        problems, toy_problems: sizes of real models; sizes for a CPU and Triton's interpreter.
        providers: by name, from a setting to a call. Each draws the same weights and images from a seed of its own, on
            the CPU, so all compute the same; a call returns tensors to compare. ``eager`` is plain torch.
        exact: whether ``eager`` in float64 is the reference; else it is ``eager`` itself, in the case's own type, and
            the first call of each provider is compared.
        dtypes: that it is measured in.
        capturable: whether a CUDA graph may hold it; what draws or counts on the host may not be.
        partly: providers that compute the same at first only, and return the first of what the others return.
        late: measured behind the key problems of the ops, for which a run that is cut off had better have time.
    """

    name: str
    pass_: str
    problems: tuple[Problem, ...]
    toy_problems: tuple[Problem, ...]
    providers: Mapping[str, Callable[[Setting], Call]]
    exact: bool = True
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    capturable: bool = True
    partly: tuple[str, ...] = ()
    late: bool = False


@dataclass(frozen=True)
class StepCase:
    """One line of the report: everything but the provider."""

    step: Step
    problem: Problem
    dtype_name: str

    @property
    def subject(self) -> Row:
        return {
            "op": self.step.name,
            "problem": self.problem.name,
            "shape": "x".join(map(str, self.problem.shape)),
            "dtype": self.dtype_name,
            "layout": "contiguous",
            "pass": self.step.pass_,
        }

    @property
    def key(self) -> str:
        return key_of(self.subject)

    @property
    def rank(self) -> int:
        return 0 if self.problem.key and not self.step.late else 1

    @property
    def dtype(self) -> torch.dtype:
        """What its results are rounded to."""
        return _DTYPES[self.dtype_name]

    def setting(self, device: torch.device, compile_backend: str, *, dtype_name: str | None = None) -> Setting:
        return Setting(self.problem, dtype_name or self.dtype_name, device, compile_backend)


def step_cases(steps: Iterable[Step], *, toy: bool = False) -> list[StepCase]:
    """All cases, key problems first; at toy size the first type alone."""
    listed = [
        StepCase(step, problem, dtype)
        for step in steps
        for problem in (step.toy_problems if toy else step.problems)
        for dtype in (step.dtypes[:1] if toy else step.dtypes)
    ]
    return sorted(listed, key=lambda case: case.rank)
