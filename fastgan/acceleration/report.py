"""The report of swapped and left modules."""

from dataclasses import dataclass

from fastgan_kernels.backend import BackendChoice


@dataclass(frozen=True)
class Swapped:
    """A part of the model that runs on fused ops: its path, its old form and its new form."""

    path: str
    what: str
    by: str


@dataclass(frozen=True)
class Left:
    """A part of the model that was left unchanged: its path, its class and the reason."""

    path: str
    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """The outcome of :func:`fastgan.accelerate`; printed, it is a table.

    Attributes:
        swapped: the parts that run on fused ops, or would without ``dry_run``.
        left: the parts that were left unchanged, with reasons.
        backend: backend of the swapped ops on the model's device, with the reason.
        dry_run: whether the model was left unchanged.
        check: the result of the comparison before and after; ``None`` without ``check``.
    """

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]
    backend: BackendChoice
    dry_run: bool = False
    check: str | None = None

    def __str__(self) -> str:
        verb = "would be swapped" if self.dry_run else "swapped"
        lines = [f"{len(self.swapped)} {verb}, {len(self.left)} left"]
        lines += _table(("module", "was", "runs"), [(s.path, s.what, s.by) for s in self.swapped])
        lines += _table(("module", "is", "left because"), [(s.path, s.what, s.why) for s in self.left])
        faster = "" if self.backend.backend == "triton" else "; it is not faster than plain torch"
        lines.append(f"the ops run on {self.backend.backend}: {self.backend.reason}{faster}")
        if self.check is not None:
            lines.append(f"check: {self.check}")
        return "\n".join(lines)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "",
        *(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ),
        "",
    ]
