"""One step: check every provider, then time those that are right, side by side, and take their time apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.accuracy import tolerance
from benchmarks.breakdown import Breakdown, breakdown
from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.measure import Effort, Refusal, cells, peak_of, refused, time_calls
from benchmarks.passes import Call, Outputs
from benchmarks.steps.step import StepCase
from fastgan.training.config import SettingsError

_TIMES_EAGER = 3
_TF32 = 2.0**-10  # the relative error of a rounding in the convolutions of a GPU
_SMALL = 1e-3


def measure_step(
    case: StepCase,
    device: CpuDevice | CudaDevice,
    effort: Effort,
    *,
    alive: Callable[[], object] = lambda: None,
) -> tuple[list[dict[str, object]], list[Refusal]]:
    """Returns the rows of a case (without the identity of the machine) and the providers that were refused.

    Training finds its weights in cache as the last step left them, so there is no time with a cold cache.

    Args:
        alive: called after each provider's check, which may compile for a minute.
    """
    calls, refusals = _check(case, device, effort.compile_backend, alive)
    # A call of a whole training may take half a second: what it takes on the wall is what a user has of it.
    modes = ("warm", "graph", "wall") if case.step.capturable else ("wall",)
    figures = time_calls({name: [call] for name, call in calls.items()}, device, effort, modes)
    rows: list[dict[str, object]] = []
    for name, call in calls.items():
        parts = breakdown(call, device)
        wall = figures["wall"][name].median
        rows.append(
            {**case.subject, "provider": name, **cells(figures, name), **peak_of(call, device), **_parts(parts, wall)}
        )
    return rows, refusals


def _check(
    case: StepCase, device: CpuDevice | CudaDevice, compile_backend: str, alive: Callable[[], object]
) -> tuple[dict[str, Call], list[Refusal]]:
    """The calls of the providers that compute what plain torch computes in float64.

    A network adds up roundings, and an activation near its kink may go either way, so a provider may be off by three
    times the error of eager torch in the same type, or by a few roundings if eager torch happens to be better.
    Where eager torch is itself the reference, half the digits must agree: two runs of it may agree in all of them,
    or, where a convolution's gradient adds up in any order, in almost all.
    """
    eager = case.step.providers["eager"]
    of_reference = case.setting(device.torch_device, compile_backend, dtype_name="float64" if case.step.exact else None)
    expected = _double(eager(of_reference)())
    torch._dynamo.reset()

    setting = case.setting(device.torch_device, compile_backend)
    of_eager = error(eager(setting)(), expected)
    of_roundings = tolerance(case.dtype, reduction=1)
    if not case.step.exact:
        rounding = max(torch.finfo(case.dtype).eps, 0 if device.kind == "cpu" else _TF32)
        of_roundings = rounding**0.5
    allowed = max(_TIMES_EAGER * of_eager, of_roundings)
    calls, refusals = {}, []
    for name, build in case.step.providers.items():
        alive()
        try:
            call = build(setting)
            outputs = call()
            compared = expected[: len(outputs)] if name in case.step.partly else expected
            found = error(outputs, compared)
        except SettingsError as refusal:
            # What cannot be on this machine, such as graphs on a CPU.
            refusals.append(Refusal(name, "refused", str(refusal)))
            continue
        except Exception as failure:
            device.synchronize()  # after a fault of the device nothing works: this raises again
            refusals.append(refused(name, failure))
            continue
        if found <= allowed:
            calls[name] = call
        else:
            refusals.append(Refusal(name, "wrong", f"error {found:.2g}, eager torch explains {allowed:.2g}"))
    return calls, refusals


def error(outputs: Outputs, expected: Outputs) -> float:
    """The largest error of an output in norm, relative to its norm or, if that is more, to 1e-3 of the largest norm.

    The gradient of the last bias of a Wasserstein critic, say, is 0 by cancellation.
    """
    norms = [t.norm().item() for t in expected]
    smallest = _SMALL * max(norms)
    if smallest == 0:
        raise ValueError("the reference is zero everywhere, so there is nothing to compare")
    found = [
        (y.detach().to(torch.float64) - r).norm().item() / max(norm, smallest)
        for y, r, norm in zip(outputs, expected, norms, strict=True)
    ]
    return max(found) if all(e == e for e in found) else float("inf")


def _double(outputs: Outputs) -> tuple[Tensor, ...]:
    # Copies: an engine's gradients are those of its last step.
    return tuple(t.detach().to(torch.float64, copy=True) for t in outputs)


def _parts(parts: Breakdown, wall: float) -> dict[str, object]:
    microseconds = {kind: seconds * 1e6 for kind, seconds in parts.seconds.items()}
    if parts.launches is None:
        return {"parts_us": render(microseconds)}
    # What the device waits for: launches from the host.
    idle = max(0.0, wall * 1e6 - sum(microseconds.values()))
    return {"launches": parts.launches, "parts_us": render({**microseconds, "idle": idle})}


def render(microseconds: dict[str, float]) -> str:
    """The cell ``parts_us``."""
    return " ".join(f"{kind}={us:.1f}" for kind, us in microseconds.items())
