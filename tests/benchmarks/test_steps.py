"""Whole steps: all implementations train alike, and one that does not is not timed."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.devices import CpuDevice
from benchmarks.measure import TOY
from benchmarks.steps import Step, error, measure, steps

DCGAN, WGAN_GP, SNGAN, STYLEGAN = steps(toy=True)


def test_the_trainer_trains_alike_on_the_kernels_and_on_plain_torch():
    rows, refusals = measure(DCGAN, CpuDevice(), TOY)
    assert refusals == []
    # A CPU has no graphs.
    assert [row["implementation"] for row in rows] == ["fused", "eager"]
    for row in rows:
        assert float(str(row["wall_us_median"])) > 0
        # Nothing of a step with a cold cache, and no minimum bytes.
        assert not {"device_us_median", "graph_us_median", "bytes"} & row.keys()


# Two trainers under torch.compile and the interpreter: aot_eager takes most of a minute.
@pytest.mark.exhaustive
@pytest.mark.parametrize("step", [WGAN_GP, SNGAN, STYLEGAN], ids=lambda step: step.preset)
def test_every_step_is_right_in_every_mode(step: Step):
    for compiled in (False, True) if step is WGAN_GP else (False,):
        _, refusals = measure(step, CpuDevice(), TOY, compiled=compiled)
        assert refusals == []


@pytest.mark.parametrize(
    ("off", "kernels", "refused"), [(1e-5, "triton", []), (1e-2, "triton", ["fused"]), (1e-2, "reference", ["eager"])]
)
def test_half_the_digits_must_agree(monkeypatch: pytest.MonkeyPatch, off: float, kernels: str, refused: list[str]):
    """A convolution's gradient that adds up in any order leaves eager torch a tiny error, which bounds nothing."""
    calls = iter(range(9))

    def call(self: Step, mode: str, of: str, device: torch.device, compile_backend: str) -> Callable[[], object]:
        first = next(calls) == 0  # that is the reference
        return lambda: [torch.tensor([1.0 if first or of != kernels else 1.0 + off])]

    monkeypatch.setattr(Step, "call", call)
    rows, refusals = measure(DCGAN, CpuDevice(), TOY)
    assert [refusal.implementation for refusal in refusals] == refused
    assert {row["implementation"] for row in rows} == {"fused", "eager"} - set(refused)


def test_errors_are_in_norm_and_what_cancels_counts_for_little():
    large, zero = torch.full((4,), 10.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert error((large, zero), (large, zero)) == 0
    assert error((large * 1.01, zero), (large, zero)) == pytest.approx(0.01)
    # Of the norm 20 a thousandth is 0.02.
    assert error((large, zero + torch.tensor([3e-4, 4e-4])), (large, zero)) == pytest.approx(5e-4 / 0.02)
    assert error((large * torch.nan, zero), (large, zero)) == float("inf")
    with pytest.raises(ValueError, match="nothing to compare"):
        error((large,), (torch.zeros(4, dtype=torch.float64),))


def test_each_step_has_a_name_of_its_own():
    for listed in (steps(), steps(toy=True)):
        assert len({step.key for step in listed}) == len(listed)
    # The toys are small.
    assert all(step.config.batch_size == 4 and step.config.resolution <= 16 for step in steps(toy=True))
