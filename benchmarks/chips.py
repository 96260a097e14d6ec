"""Descriptions of chips, for predictions where there is none: datasheets, and what is known beyond them."""

from dataclasses import dataclass

_MB = 2**20
_LAUNCH_SECONDS = 2e-6  # nobody's measurement: an assumption, the same for every chip, and said wherever it is used


@dataclass(frozen=True)
class Chip:
    """What a prediction assumes of a chip.

    Args:
        name: what ``--chip`` calls it.
        target: the kernels' compilation target (``fastgan_kernels.inspection.launches.TARGETS``).
        bandwidth: of its memory, bytes a second, by ``bandwidth_source``.
        arithmetic: float32 operations a second outside matrix units, by the same datasheet.
        cache_bytes: the cache that all of the chip shares.
        copy_share: the share of ``bandwidth`` that a copy reaches, reads and writes counted, by ``copy_source``;
            ``None`` where it is not known: then ``bandwidth`` itself is taken, which no copy reaches.
        launch_seconds: what a launch inside a CUDA graph takes at least. Assumed, not measured.
    """

    name: str
    target: str
    bandwidth: float
    bandwidth_source: str
    arithmetic: float
    cache_bytes: int
    copy_share: float | None = None
    copy_source: str = ""
    launch_seconds: float = _LAUNCH_SECONDS

    @property
    def copy_bandwidth(self) -> float:
        return self.bandwidth * (1 if self.copy_share is None else self.copy_share)

    @property
    def assumptions(self) -> str:
        """One sentence that goes with every figure predicted for this chip."""
        known = f"{self.bandwidth / 1e12:.2f} TB/s ({self.bandwidth_source}"
        if self.copy_share is None:
            known += "; no copy is known, so times are lower bounds)"
        else:
            known += f"), of which a copy reaches {self.copy_share:.0%} ({self.copy_source})"
        return (
            f"Assumed of {self.name}: {known}; each launch, inside a CUDA graph, takes {self.launch_seconds * 1e6:g} us"
            " or more (an assumption, not measured) and moves each tensor it is given once; caches are cold, and what"
            f" an earlier launch of the call left in {self.cache_bytes // _MB} MB of cache is free; a call takes at"
            f" least its operations at the datasheet's {self.arithmetic / 1e12:g} TFLOP/s. Nothing was timed."
        )


_COPY = "a device-to-device copy of about {} TB/s, noted in this project's development, not in results.csv"

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("A100", "sm_80", 2.039e12, "NVIDIA A100 80GB SXM datasheet", 19.5e12, 40 * _MB),
        Chip("H100", "sm_90", 3.35e12, "NVIDIA H100 SXM datasheet", 67e12, 50 * _MB, 3.0 / 3.35, _COPY.format("3.0")),
        Chip("H200", "sm_90", 4.8e12, "NVIDIA H200 SXM datasheet", 67e12, 50 * _MB, 4.3 / 4.8, _COPY.format("4.3")),
        # The cache behind the L2s of its dies: the Infinity Cache.
        Chip("MI300X", "gfx942", 5.3e12, "AMD Instinct MI300X datasheet", 163.4e12, 256 * _MB),
    )
}
