"""Everything that is measured, in the order of what a cut may cost: limits, whole steps, then op by op."""

from collections.abc import Callable

from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.limits import Limit, limits, measure_limit
from benchmarks.measure import Effort, Refusal, measure
from benchmarks.old_ops import OPS
from benchmarks.registry import Case, cases
from benchmarks.steps import STEPS
from benchmarks.steps.measure import measure_step
from benchmarks.steps.step import StepCase, step_cases

AnyCase = Limit | StepCase | Case


def suite(*, toy: bool = False) -> list[AnyCase]:
    """All cases, those first whose loss would hurt most."""
    listed: list[AnyCase] = [*limits(toy=toy), *step_cases(STEPS, toy=toy), *cases(OPS, toy=toy)]
    return sorted(listed, key=lambda case: case.rank)


def measure_any(
    case: AnyCase,
    device: CpuDevice | CudaDevice,
    effort: Effort,
    *,
    plant: bool = False,
    alive: Callable[[], object] = lambda: None,
) -> tuple[list[dict[str, object]], list[Refusal]]:
    """Returns the rows of a case (without the identity of the machine) and the providers that were refused.

    Args:
        plant: add a wrong provider to a case of an op, to see it refused.
        alive: called now and then by what takes long.
    """
    if isinstance(case, Limit):
        return measure_limit(case, device, effort), []
    if isinstance(case, StepCase):
        return measure_step(case, device, effort, alive=alive)
    return measure(case, device, effort, plant=plant)
