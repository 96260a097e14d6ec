"""What the project promises of its speed on a GPU, and what of it a table of results falls short of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.registry import key_of
from benchmarks.results import Row

LARGE_BYTES = 64 * 2**20
_LONG_ROW = 16 * 1024
_ELEMENTWISE = ("bias_act", "interpolate", "noise_injection")
_NORMALISING = ("adain", "style_epilogue")
BOUND_BY_BANDWIDTH = (*_ELEMENTWISE, *_NORMALISING)
# Wall times of eager calls behind which the device is still busy: there launches do not decide.
_DEVICE_BOUND = 0.9
# A whole step against the same step in eager torch, in wall time.
_SPEED_UPS = {"spectral_norms": 10.0, "wgan_gp_step": 2.0}
# Whole training steps as graphs, against a plain loop, in wall time: small networks are bound by launches.
LOOP_AIMS = {"vanilla_28": 5.0, "dcgan_28": 5.0, "wgan-gp_28": 5.0, "sngan_28": 5.0, "stylegan_256": 2.5}


@dataclass(frozen=True)
class Verdict:
    """One aim on one case: what was aimed at, what was measured, and whether that is enough."""

    aim: str
    case: str
    measured: float
    wanted: float
    met: bool

    def __str__(self) -> str:
        return f"{self.case}: {self.aim}: {self.measured:.2f}, wanted {self.wanted:.2f}"


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """Every aim on every case that it speaks of; rows of a CPU are not judged.

    Args:
        rows: of one run, as :func:`benchmarks.results.read` gives them.
    """
    by_case: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["device"] != "cpu":
            by_case.setdefault(key_of(row), {})[str(row["provider"])] = row
    return [verdict for case, providers in by_case.items() for verdict in _judge(case, providers)]


def _judge(case: str, providers: dict[str, Row]) -> Iterator[Verdict]:
    yield from _judge_training(case, providers)
    fused = providers.get("fused")
    if fused is None:
        return
    if fused["share_of_clone_cold"] and (share := _share_wanted(fused)) is not None:
        measured = float(str(fused["share_of_clone_cold"]))
        yield Verdict("share of a clone, cold cache", case, measured, share, measured >= share)
    for name in ("eager", "compile"):
        if (other := providers.get(name)) is None:
            continue
        if _has(fused, "graph") and _has(other, "graph"):
            yield _not_slower(f"times as fast as {name} in a CUDA graph", case, fused, other, "graph")
        if name == "eager" and _is_device_bound(other) and _has(fused, "wall"):
            yield _not_slower("times as fast as eager in wall time", case, fused, other, "wall")
    wanted, eager = _SPEED_UPS.get(str(fused["op"])), providers.get("eager")
    if wanted and eager and _has(fused, "wall") and _has(eager, "wall"):
        ratio = _median(eager, "wall") / _median(fused, "wall")
        yield Verdict("times as fast as eager in wall time", case, ratio, wanted, ratio >= wanted)


def _judge_training(case: str, providers: dict[str, Row]) -> Iterator[Verdict]:
    graph = providers.get("graph")
    if graph is None or not _has(graph, "wall"):
        return
    wanted = {"loop": LOOP_AIMS.get(str(graph["problem"])), "tuned": 1.0}
    for name, least in wanted.items():
        if least is not None and (other := providers.get(name)) is not None and _has(other, "wall"):
            ratio = _median(other, "wall") / _median(graph, "wall")
            # Ahead of the tuned loop, not beside it.
            met = ratio > least if name == "tuned" else ratio >= least
            yield Verdict(f"graph times as fast as {name} in wall time", case, ratio, least, met)


def _share_wanted(row: Row) -> float | None:
    op, pass_, bytes_ = row["op"], row["pass"], row["bytes"]
    if pass_ == "double_backward" or not bytes_ or int(str(bytes_)) < LARGE_BYTES:
        return None
    if op in _ELEMENTWISE:
        return 0.95 if pass_ == "forward" else 0.9
    if op in _NORMALISING:
        if pass_ == "backward":
            return 0.85
        _, _, *spatial = map(int, str(row["shape"]).split("x"))
        length = 1
        for extent in spatial:
            length *= extent
        return 0.9 if length <= _LONG_ROW else 0.8
    return None


def _not_slower(aim: str, case: str, fused: Row, other: Row, mode: str) -> Verdict:
    ratio = _median(other, mode) / _median(fused, mode)
    # Within the noise of both nobody is slower.
    met = float(str(fused[f"{mode}_us_q1"])) <= float(str(other[f"{mode}_us_q3"]))
    return Verdict(aim, case, ratio, 1.0, met)


def _is_device_bound(row: Row) -> bool:
    return _has(row, "graph") and _has(row, "wall") and _median(row, "graph") > _DEVICE_BOUND * _median(row, "wall")


def _has(row: Row, mode: str) -> bool:
    return bool(row[f"{mode}_us_median"])


def _median(row: Row, mode: str) -> float:
    return float(str(row[f"{mode}_us_median"]))
