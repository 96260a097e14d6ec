"""Images a second of each preset in each form, and how many times that of the two loops beside it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.tables import Measured, ratio, times_text

# The engine's forms, then plain torch: the engine on references, and the two loops.
FORMS = ("graph", "compiled", "fused", "eager", "tuned", "loop")
HEAD = ("preset", "problem", "type", *FORMS, "graph / loop", "graph / tuned")
LEGEND = (
    "Images a second of training: whole steps as CUDA graphs, compiled, eager on kernels (fused) and on plain torch "
    "(eager); a loop with all that torch offers (tuned), and one as tutorials write it, always in float32 (loop)."
)


@dataclass(frozen=True)
class Rates:
    """Images a second of a case by form; those of the loop are of the same problem in float32."""

    case: Measured
    of_form: dict[str, float]

    def cells(self) -> list[str]:
        """As ``HEAD`` names them; a dash was not measured."""
        rates = [self.of_form.get(form) for form in FORMS]
        times = [ratio(self.of_form.get("graph"), self.of_form.get(name)) for name in ("loop", "tuned")]
        preset = self.case.op.partition(":")[2]
        shown = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
        return [
            preset, self.case.problem, self.case.dtype, *shown,
            *("-" if value is None else times_text(value) for value in times),
        ]  # fmt: skip


def is_training(case: Measured) -> bool:
    return case.op.startswith("train:")


def training(cases: Iterable[Measured]) -> list[Rates]:
    """Of the cases those that train. Images are those of a step's batch, whatever updates the discriminator has."""
    chosen = [case for case in cases if is_training(case)]
    of_case = {(case.op, case.problem, case.dtype): _rates(case) for case in chosen}
    found = []
    for case in chosen:
        rates = dict(of_case[case.op, case.problem, case.dtype])
        plain = of_case.get((case.op, case.problem, "float32"), {})
        if "loop" in plain:
            rates["loop"] = plain["loop"]
        found.append(Rates(case, rates))
    return found


def _rates(case: Measured) -> dict[str, float]:
    steps, batch, *_ = map(int, case.shape.split("x"))
    return {form: steps * batch / us * 1e6 for form in FORMS if (us := case.us(form, "wall"))}


def lines(cases: Sequence[Measured]) -> list[str]:
    """A table for a terminal; empty where nothing trains."""
    found = training(cases)
    if not found:
        return []
    table = [list(HEAD), *(rates.cells() for rates in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = (
        " ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    )
    return [LEGEND, *(line.rstrip() for line in padded)]
