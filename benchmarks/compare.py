"""What changed between two runs: medians that lie outside each other's quartiles."""

from collections.abc import Iterable, Mapping

from benchmarks.measure import COPY, MODES

Row = Mapping[str, str]

_LEAST = 0.03  # smaller changes are not worth acting on, so they are not reported


def compare(before: Iterable[Row], after: Iterable[Row]) -> tuple[list[str], bool]:
    """Compares the fused implementations of two runs.

    A time has changed if each median lies outside the other's quartiles and they differ by 3% or more.

    Returns:
        Sentences, first how much the copies changed (a change that they share is the machine's, not the kernel's), then
        the changed times, largest change first, then the cases that only one run has; and whether a time became longer
        or a case is missing from the second run.

    Raises:
        ValueError: if the runs are not of the same chip.
    """
    first, second = _by_case(before), _by_case(after)
    chips = [sorted({row["chip"] for row in rows.values()}) for rows in (first, second)]
    if chips[0] != chips[1]:
        raise ValueError(f"the runs are of different chips ({', '.join(chips[0])}; {', '.join(chips[1])})")
    moved: list[tuple[float, str]] = []
    copies: list[float] = []
    for key in first.keys() & second.keys():
        a, b = first[key], second[key]
        for mode in MODES:
            if not (a[f"{mode}_us_median"] and b[f"{mode}_us_median"]):
                continue
            was, now = (float(row[f"{mode}_us_median"]) for row in (a, b))
            if key[-1] == COPY:
                copies.append(now / was)
            elif _outside(was, b, mode) and _outside(now, a, mode) and abs(now / was - 1) >= _LEAST:
                how = f"{now / was:.2f} times as long" if now > was else f"{was / now:.2f} times as fast"
                moved.append((now / was, f"{'/'.join(key)} {mode}: {how}, {was:.1f} to {now:.1f} us"))
    moved.sort(key=lambda change: -max(change[0], 1 / change[0]))
    ours = [{"/".join(key) for key in rows if key[-1] != COPY} for rows in (first, second)]
    lost, new = sorted(ours[0] - ours[1]), sorted(ours[1] - ours[0])
    said = [sentence for _, sentence in moved] or ["no time left its quartiles"]
    said += [*(f"only in the first: {case}" for case in lost), *(f"only in the second: {case}" for case in new)]
    if copies:
        said.insert(0, f"copies took {sorted(copies)[len(copies) // 2]:.2f} times as long (median)")
    return said, any(times > 1 for times, _ in moved) or bool(lost)


def _outside(median: float, row: Row, mode: str) -> bool:
    return not float(row[f"{mode}_us_q1"]) <= median <= float(row[f"{mode}_us_q3"])


def _by_case(rows: Iterable[Row]) -> dict[tuple[str, ...], Row]:
    """The rows of fused implementations and copies, by case; of repeated cases the last one counts."""
    columns = ("op", "problem", "dtype", "layout", "pass", "implementation")
    ours = (row for row in rows if row["implementation"] == COPY or row["implementation"].startswith("fused"))
    return {tuple(row[column] for column in columns): row for row in ours}
