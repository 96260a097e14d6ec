"""Chips by their datasheets, and the bound that bytes and occupancy set where none can be measured."""

import math
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Chip:
    """What a bound needs to know of a chip.

    Attributes:
        target: the kernels' compilation target.
        multiprocessors: of the whole chip; compute units on AMD.
        registers: 32-bit registers of a multiprocessor.
        shared_bytes: shared memory of a multiprocessor that kernels can use.
        threads, programs: the most that a multiprocessor runs at a time.
        register_unit: registers are handed to a warp in multiples of this many a thread.
        bandwidth: of the memory, bytes a second.
        latency: seconds from a load to its data, under load: an assumption, the same for all.
    """

    target: str
    multiprocessors: int
    registers: int
    shared_bytes: int
    threads: int
    programs: int
    register_unit: int
    bandwidth: float
    latency: float = 800e-9

    @property
    def bytes_in_flight(self) -> float:
        """How many bytes a multiprocessor must have requested at any time to keep the memory busy (Little's law)."""
        return self.bandwidth * self.latency / self.multiprocessors


# NVIDIA's data sheets and CUDA C++ programming guide (technical specifications per compute capability); AMD's CDNA3
# white paper: 4 SIMDs of 512 vector registers for 64 lanes.
CHIPS = {
    "A100": Chip("sm_80", 108, 65536, 164 * KIB, 2048, 32, 8, 2.04e12),
    "H100": Chip("sm_90", 132, 65536, 228 * KIB, 2048, 32, 8, 3.35e12),
    "H200": Chip("sm_90", 132, 65536, 228 * KIB, 2048, 32, 8, 4.8e12),
    "B200": Chip("sm_100", 148, 65536, 228 * KIB, 2048, 32, 8, 8.0e12),
    "RTX 5090": Chip("sm_120", 170, 65536, 100 * KIB, 1536, 24, 8, 1.79e12),
    "MI300X": Chip("gfx942", 304, 131072, 64 * KIB, 2048, 32, 8, 5.3e12),
}


def resident_programs(chip: Chip, *, registers: int, threads: int, shared_bytes: int = 0) -> int:
    """How many programs a multiprocessor runs at a time.

    Args:
        registers: of a thread.
        threads, shared_bytes: of a program.
    """
    of_thread = math.ceil(registers / chip.register_unit) * chip.register_unit
    limits = [chip.programs, chip.threads // threads, chip.registers // (of_thread * threads)]
    return min([*limits, chip.shared_bytes // shared_bytes] if shared_bytes else limits)


def share_of_bandwidth(chip: Chip, *, programs: int, resident: int, bytes_of_program: float) -> float:
    """The largest share of the memory's bandwidth that a launch can reach, from 0 to 1.

    Args:
        programs: of the launch.
        resident: programs that a multiprocessor runs at a time.
        bytes_of_program: that a program has requested at a time.
    """
    at_once = min(resident, programs / chip.multiprocessors)
    return min(1.0, at_once * bytes_of_program / chip.bytes_in_flight)


def bound_seconds(chip: Chip, bytes_moved: float, share: float = 1.0) -> float:
    """The least time in which so many bytes pass the memory, at a share of its bandwidth."""
    return bytes_moved / (chip.bandwidth * share)
