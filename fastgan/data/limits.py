"""Limits on data, which keep a small hostile or broken file from filling the memory or taking hours."""

import os
from pathlib import Path

from fastgan.data.errors import DataError, quoted

# The largest image that Pillow opens without its decompression-bomb warning: 256 MiB as 8-bit RGB.
MAX_PIXELS = 2**28 // 3

# An encoded image (or its dataset.json) need not be larger than the largest accepted image without compression.
# The labels of ImageNet's 1.3 million images take 50 MB.
MAX_FILE_BYTES = 2**28

# Deflate reaches 1030:1 on zeros, real image data far less: 12.5:1 for a dataset.json of 60,000 labels, 2.5:1 for the
# bundled digits, 402:1 for a flat drawing of two colors stored raw. 100:1 leaves a wide margin for all but the last ...
MAX_COMPRESSION_RATIO = 100

# ... and below 64 MiB no ratio is dangerous (inflating as many zeros takes 0.2 s), so small synthetic sets pass.
RATIO_FREE_BYTES = 2**26


def require_compression(path: Path, promised_bytes: int) -> None:
    """Refuses a file that looks like a decompression bomb: one that grows too much to ``promised_bytes``."""
    size = path.stat().st_size
    if promised_bytes > max(RATIO_FREE_BYTES, MAX_COMPRESSION_RATIO * size):
        raise DataError(
            f"{quoted(path)} would explode from {size:,} to {promised_bytes:,} bytes; expected a compression of at "
            f"most {MAX_COMPRESSION_RATIO}:1, which real images do not reach."
        )


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(needed_bytes: int, what: str) -> None:
    """Raises DataError, before memory is allocated, if ``needed_bytes`` exceeds the physical memory."""
    available = _physical_memory()
    if needed_bytes > available:
        raise DataError(
            f"{what} would need {_gib(needed_bytes)} GiB of memory; this machine has {_gib(available)} GiB, "
            "so expected fewer or smaller images."
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f}" if count < 2**60 else f"over {2**30:,}"
