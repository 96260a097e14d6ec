"""Chips by their data sheets, and the least time that bytes and occupancy allow on them."""

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
        latency: seconds from a load to its data on a busy chip; assumed to be the same for all chips.
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
        registers: registers per thread.
        threads, shared_bytes: threads and shared memory per program.
    """
    of_thread = math.ceil(registers / chip.register_unit) * chip.register_unit
    limits = [chip.programs, chip.threads // threads, chip.registers // (of_thread * threads)]
    return min([*limits, chip.shared_bytes // shared_bytes] if shared_bytes else limits)


def share_of_bandwidth(chip: Chip, *, programs: int, resident: int, bytes_of_program: float) -> float:
    """The largest share of the memory's bandwidth that a launch can reach, from 0 to 1.

    Args:
        programs: programs of the launch.
        resident: programs that a multiprocessor runs at a time.
        bytes_of_program: bytes that a program has requested from memory at a time.
    """
    at_once = min(resident, programs / chip.multiprocessors)
    return min(1.0, at_once * bytes_of_program / chip.bytes_in_flight)


def bound_seconds(chip: Chip, bytes_moved: float, share: float = 1.0) -> float:
    """The seconds that memory needs to move so many bytes, at a share of its bandwidth."""
    return bytes_moved / (chip.bandwidth * share)
