"""Chips by their data sheets, and how many programs they run, and how long memory needs for bytes."""

import math
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Chip:
    """The figures of a chip that the bound needs.

    Attributes:
        target: the compilation target of its kernels.
        multiprocessors: how many the chip has; compute units on AMD.
        registers: 32-bit registers per multiprocessor.
        shared_bytes: shared memory per multiprocessor that kernels can use.
        threads, programs: how many a multiprocessor runs at a time, at most.
        register_unit: registers per thread are allocated in multiples of this number.
        bandwidth: memory bandwidth in bytes per second.
        clock: highest clock in hertz.
        lanes: threads of a multiprocessor that execute an instruction per cycle.
        latency: seconds from a load to its data; assumed to be the same for all chips.
    """

    target: str
    multiprocessors: int
    registers: int
    shared_bytes: int
    threads: int
    programs: int
    register_unit: int
    bandwidth: float
    clock: float
    lanes: int = 128
    latency: float = 700e-9

    @property
    def bytes_in_flight(self) -> float:
        """How many bytes a multiprocessor must have requested at any time to keep the memory busy (Little's law)."""
        return self.bandwidth * self.latency / self.multiprocessors


# NVIDIA's data sheets and CUDA C++ programming guide (technical specifications per compute capability); AMD's CDNA3
# white paper: 4 SIMDs of 512 vector registers for 64 lanes.
CHIPS = {
    "A100": Chip("sm_80", 108, 65536, 164 * KIB, 2048, 32, 8, 2.04e12, 1.41e9),
    "H100": Chip("sm_90", 132, 65536, 228 * KIB, 2048, 32, 8, 3.35e12, 1.98e9),
    "H200": Chip("sm_90", 132, 65536, 228 * KIB, 2048, 32, 8, 4.8e12, 1.98e9),
    "B200": Chip("sm_100", 148, 65536, 228 * KIB, 2048, 32, 8, 8.0e12, 1.965e9),
    "RTX 5090": Chip("sm_120", 170, 65536, 100 * KIB, 1536, 24, 8, 1.79e12, 2.41e9),
    "MI300X": Chip("gfx942", 304, 131072, 64 * KIB, 2048, 32, 8, 5.3e12, 2.1e9, 64),
}


def resident_programs(chip: Chip, *, registers: int, threads: int, shared_bytes: int = 0) -> int:
    """How many programs a multiprocessor runs at a time.

    Args:
        registers: registers per thread.
        threads, shared_bytes: threads and shared memory per program.
    """
    of_thread = math.ceil(registers / chip.register_unit) * chip.register_unit
    # CUDA reserves 1 KB of shared memory for every program.
    of_program = shared_bytes + (KIB if chip.target.startswith("sm_") else 0)
    limits = [chip.programs, chip.threads // threads, chip.registers // (of_thread * threads)]
    return min([*limits, chip.shared_bytes // of_program] if of_program else limits)


def bound_seconds(chip: Chip, bytes_moved: float) -> float:
    """The seconds that memory needs to move so many bytes."""
    return bytes_moved / chip.bandwidth
