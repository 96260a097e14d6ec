"""How many bytes an op moves, counted under Triton's interpreter on the CPU.

Memory moves in sectors of 32 bytes. Each ``tl.load`` or ``tl.store`` of a program counts the distinct sectors that its
unmasked lanes touch, so unused parts of a sector count too. A kernel that passes a window over its input can be counted
per program instead. torch's own operators between the kernels (copies, casts, composed derivatives) count as one launch
each.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor
from triton import knobs
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder

from benchmarks.static.operators import TorchOperators, extent, touched_bytes
from benchmarks.static.tables import tables_of_pointers

SECTOR = 32
"""Bytes of a sector of NVIDIA's L2 cache, the smallest unit that memory moves."""

SMALL = 16
"""An operand with less than 1 / SMALL of the bytes of x is assumed to stay in cache: it counts once."""


@dataclass
class TensorTraffic:
    """Bytes that a launch loads from and stores to one of its tensors, and the last byte that it touches."""

    tensor: Tensor
    loaded: int = 0
    stored: int = 0
    reach: int = 0


@dataclass
class LaunchTraffic:
    """One launch and its traffic: a kernel's, by the names of its arguments; or a torch operator's, by their positions.

    ``*argument[i]`` is the tensor that the i-th pointer of a table points to.
    """

    kernel: str
    programs: int
    tensors: dict[str, TensorTraffic]

    @property
    def loaded(self) -> int:
        return sum(t.loaded for t in self.tensors.values())

    @property
    def stored(self) -> int:
        return sum(t.stored for t in self.tensors.values())


class OverMinimum(NamedTuple):
    """Bytes moved, in multiples of the problem's minimum bytes.

    ``ratio`` counts inputs and outputs; ``apart`` everything else (partial sums, statistics kept between two kernels).
    """

    ratio: float
    apart: float


@dataclass
class Traffic:
    """The launches of a block, in order."""

    launches: list[LaunchTraffic] = field(default_factory=list)

    @property
    def loaded(self) -> int:
        return sum(launch.loaded for launch in self.launches)

    @property
    def stored(self) -> int:
        return sum(launch.stored for launch in self.launches)

    def over_minimum(self, x: Tensor, *, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> OverMinimum:
        """Compares with the minimum of the problem: each input read once, each output written once.

        Args:
            x: the operand that decides which operands are small: those below a sixteenth of its bytes count once.
            inputs, outputs: the op's operands and results. All other traffic is ``apart``.
        """
        moved = apart = 0
        named = [*inputs, *outputs]
        for tensor in named:
            if tensor.nbytes * SMALL < x.nbytes:
                moved += tensor.nbytes
        for launch in self.launches:
            for entry in launch.tensors.values():
                owner = next((t for t in named if _is_part(entry.tensor, t)), None)
                if owner is None:
                    apart += entry.loaded + entry.stored
                elif owner.nbytes * SMALL >= x.nbytes:
                    moved += entry.loaded + entry.stored
        minimum = sum(tensor.nbytes for tensor in named)
        return OverMinimum(moved / minimum, apart / minimum)


@contextmanager
def count_traffic(per: Literal["access", "program"] = "access") -> Iterator[Traffic]:
    """Counts the bytes moved by the kernels and torch operators that the block launches.

    The tensors live as long as the result. Do not use it while other threads launch kernels.

    Args:
        per: ``"access"`` counts a sector at every access that touches it; ``"program"`` counts it once per program and
            direction, for kernels whose repeated accesses hit the first level of cache.

    Raises:
        RuntimeError: where Triton is not interpreted; from a kernel that uses atomics; from an access outside the
            kernel's tensors.
    """
    if not knobs.runtime.interpret:
        raise RuntimeError("traffic is counted in Triton's interpreter: set TRITON_INTERPRET=1 before the first import")
    originals = {
        (owner, name): getattr(owner, name)
        for owner, name in (
            (InterpretedFunction, "run"),
            (InterpreterBuilder, "create_masked_load"),
            (InterpreterBuilder, "create_masked_store"),
            (InterpreterBuilder, "create_atomic_rmw"),
            (InterpreterBuilder, "create_atomic_cas"),
            (InterpreterBuilder, "set_grid_idx"),
        )
    }
    run, load, store, *_, set_program = originals.values()

    def counted_run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        named = dict(zip(self.arg_names, args, strict=False)) | kwargs
        with counter.launch(self.__name__, named, grid(named) if callable(grid) else grid):
            return run(self, *args, grid=grid, warmup=warmup, **kwargs)

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **kwargs: Any) -> Any:
        counter.access("loaded", ptrs, mask)
        return load(self, ptrs, mask, *rest, **kwargs)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **kwargs: Any) -> Any:
        counter.access("stored", ptrs, mask)
        return store(self, ptrs, value, mask, *rest, **kwargs)

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a kernel with atomics: its results would change from run to run")

    def noted_program(self: Any, *args: Any) -> Any:
        counter.new_program()
        return set_program(self, *args)

    replacements = (counted_run, counted_load, counted_store, refuse, refuse, noted_program)
    try:
        for (owner, name), replacement in zip(originals, replacements, strict=True):
            setattr(owner, name, replacement)
        with tables_of_pointers() as behind:
            counter = _Counter(behind, per_program=per == "program")
            with TorchOperators(counter.torch_operator):
                yield counter.traffic
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


class _Counter:
    def __init__(self, behind: Callable[[Tensor], Sequence[Tensor]], *, per_program: bool) -> None:
        self._behind = behind
        self.traffic = Traffic()
        self.running: LaunchTraffic | None = None
        self._per_program = per_program
        # Sectors touched by the running program, by argument and direction.
        self._touched: dict[tuple[str, str], set[int]] = defaultdict(set)

    @contextmanager
    def launch(self, kernel: str, arguments: dict[str, Any], grid: Sequence[int]) -> Iterator[None]:
        programs = 1
        for axis in grid:
            programs *= axis
        given = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
        tensors = {name: TensorTraffic(value) for name, value in given.items()}
        for name, value in given.items():
            tensors |= {f"*{name}[{i}]": TensorTraffic(t) for i, t in enumerate(self._behind(value))}
        self.running = LaunchTraffic(kernel, programs, tensors)
        self.traffic.launches.append(self.running)
        try:
            yield
        finally:
            self.running = None

    def new_program(self) -> None:
        self._touched.clear()

    def access(self, direction: str, pointers: Any, mask: Any) -> None:
        # Some masks are integers, which NumPy would take for indices.
        addresses = pointers.data.ravel() if mask is None else pointers.data[mask.data.astype(bool)]
        if addresses.size == 0:
            return
        low, high = int(addresses.min()), int(addresses.max())
        for name, entry in self.running.tensors.items():
            start, end = _extent(entry.tensor)
            if start <= low and high < end:
                entry.reach = max(entry.reach, high - start)
                # Sectors from the start of the tensor: memory of the CPU, unlike a GPU's, need not be aligned.
                sectors = (addresses - addresses.dtype.type(start)) // addresses.dtype.type(SECTOR)
                sectors.sort()
                if self._per_program:
                    touched = self._touched[name, direction]
                    before = len(touched)
                    touched.update(sectors.tolist())
                    distinct = len(touched) - before
                else:
                    distinct = 1 + int((sectors[1:] != sectors[:-1]).sum())
                setattr(entry, direction, getattr(entry, direction) + distinct * SECTOR)
                return
        raise RuntimeError(f"{self.running.kernel} accesses memory outside any one of its tensors")

    def torch_operator(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if self.running is not None:  # the interpreter's own operators
            return
        tensors = {f"input {i}": TensorTraffic(t, loaded=touched_bytes(t)) for i, t in enumerate(inputs)}
        tensors |= {f"output {i}": TensorTraffic(t, stored=touched_bytes(t)) for i, t in enumerate(outputs)}
        self.traffic.launches.append(LaunchTraffic(name, 0, tensors))


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor and one past its last."""
    start, end = extent(tensor)
    return tensor.data_ptr(), tensor.data_ptr() + end - start


def _is_part(tensor: Tensor, whole: Tensor) -> bool:
    """Whether the memory of ``tensor`` lies within that of ``whole``."""
    (start, end), (whole_start, whole_end) = _extent(tensor), _extent(whole)
    return tensor.numel() > 0 and whole_start <= start and end <= whole_end
