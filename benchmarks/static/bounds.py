"""What each launch of an op can reach of a chip's bandwidth, computed from its machine code, its grid and its bytes.

Nothing here is measured. README.md says how the bound is computed, and what it leaves out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.chips import Chip, resident_programs
from benchmarks.static.bodies import Body
from benchmarks.static.compiled import MOST_SECONDS
from benchmarks.static.launches import Launch
from benchmarks.static.machine_code import MachineCode
from benchmarks.static.operators import touched_bytes

STREAMING = 4 << 20
"""A launch that reads as many bytes must keep the memory busy."""
IN_FLIGHT = 25_000
"""Bytes that each multiprocessor then has requested at any time: 4.8 TB/s x 0.7 us / 132 on an H200."""


@dataclass(frozen=True)
class Bound:
    """A launch on a chip.

    Attributes:
        resident: programs that a multiprocessor runs at a time; ``warps``: of these programs.
        waves: the grid in multiples of what the chip runs at a time.
        tail: the share of these places that is used, with those of the last wave.
        loads: loads that a thread issues before it needs the first.
        in_flight: bytes that a multiprocessor has requested at a time.
        instructions: of a thread, for each 16 bytes that it moves.
        bytes: of the tensors that are read and written, each once.
        share: of the bandwidth, at most.
    """

    launch: Launch
    code: MachineCode
    compile_seconds: float
    resident: int
    warps: int
    waves: float
    tail: float
    loads: int
    in_flight: float
    instructions: float
    shared_stores: int
    barriers: int
    read: int
    bytes: int
    share: float
    converts: bool

    def __str__(self) -> str:
        texts = (
            *(f"{self.code.registers}", f"{self.warps}", f"{self.instructions:.0f}", f"{self.loads}"),
            *(f"{self.in_flight / 1000:.1f}", f"{self.waves:.1f}", f"{self.tail:.0%}", f"{self.shared_stores}"),
            *(f"{self.barriers}", f"{self.compile_seconds:.2f}", f"{self.bytes / 1e6:.1f}", f"{self.share:.0%}"),
        )
        return f"{self.launch.specialization.kernel[-34:]:34}" + "".join(f"{text:>7}" for text in texts)

    def broken(self) -> list[str]:
        """One sentence for each rule that a streaming kernel breaks."""
        found = []
        if self.read >= STREAMING:
            if self.in_flight < IN_FLIGHT:
                found.append(f"has {self.in_flight / 1000:.1f} KB in flight, expected at least {IN_FLIGHT / 1000:.0f}")
            if 1 < self.waves <= 8 and self.tail < 0.7:
                found.append(f"fills {self.tail:.0%} of {self.waves:.1f} waves, expected at least 70%")
            if self.converts:
                found.append("moves its data through shared memory in a loop")
        if self.compile_seconds > MOST_SECONDS:
            found.append(f"takes {self.compile_seconds:.1f} CPU seconds to compile, expected at most {MOST_SECONDS:g}")
        return found


def bound(chip: Chip, launch: Launch, code: MachineCode, outside: Body, loops: Sequence[Body], seconds: float) -> Bound:
    """The bound of a launch.

    Args:
        outside, loops: what the code does outside of its innermost loops, and inside of each.
        seconds: CPU time that the kernel took to compile.
    """
    of, programs = launch.specialization, launch.programs
    read, written = (_bytes(launch, code.accessed[kind]) for kind in ("load", "store"))
    threads = programs * of.threads
    # The code that reads most of the bytes: loops, or the code outside of them, which runs once.
    most = max((loop.loaded for loop in loops), default=0)
    hot = [loop for loop in loops if 2 * loop.loaded >= most > 0]
    once = not hot or 2 * outside.loaded * threads >= read
    if once:
        hot = [outside]
    requested, executed = math.inf, outside.instructions
    for body in hot:
        # What several threads load, and what a mask leaves out, counts by the bytes of the tensors.
        asked = (
            body.bytes_in_flight / max(body.loaded, 1) * read / programs if once else body.bytes_in_flight * of.threads
        )
        requested = min(requested, asked, read / programs)
        if not once:
            executed += read / threads / body.loaded * body.instructions
    resident = resident_programs(chip, registers=code.registers, threads=of.threads, shared_bytes=code.shared_bytes)
    waves = programs / (resident * chip.multiprocessors)
    tail = waves / math.ceil(waves) if waves > 1 else 1.0
    in_flight = requested * min(resident, programs / chip.multiprocessors)
    instructions = executed * threads * 16 / max(read + written, 1)
    issued = chip.lanes * chip.clock * chip.multiprocessors * 16 / max(instructions, 1e-9)
    # What a launch only writes waits for no loads.
    fed = in_flight / chip.bytes_in_flight if 16 * read >= read + written else 1.0
    return Bound(
        *(launch, code, seconds, resident, resident * of.options["num_warps"], waves, tail),
        *(min(body.loads_in_flight for body in hot), in_flight, instructions),
        *(code.shared_stores, sum(body.barriers for body in hot), read, read + written),
        share=min(1.0, fed, issued / chip.bandwidth) * tail,
        converts=any(body.converts for body in loops),
    )


def _bytes(launch: Launch, names: Iterable[str]) -> int:
    return sum(touched_bytes(t) for name in names for t in launch.tensors.get(name, ()))
