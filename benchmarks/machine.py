"""What the figures were taken on."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
import triton

_ROOT = Path(__file__).parents[1]
_NVIDIA_FIELDS = "name,driver_version,pstate,temperature.gpu,power.draw,power.limit"
_NVIDIA_CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem"


def identity(commit: str | None = None) -> dict[str, str]:
    """The columns of a result that tell where it comes from, but the date.

    Args:
        commit: stated where the sources are not a git checkout; the cell ``dirty`` is then empty, as nobody can tell.
    """
    found, dirty = _checkout()
    gpu = torch.cuda.is_available()
    return {
        "commit": found or commit or "",
        "dirty": dirty,
        "device": ("rocm" if torch.version.hip else "cuda") if gpu else "cpu",
        "chip": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "driver": _driver() if gpu else "",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def description() -> dict[str, object]:
    """Everything else worth knowing about the machine."""
    about: dict[str, object] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        about |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "clocks": clocks(),
        }
    return about


def clocks() -> str:
    """Clocks, power and temperature at this moment, as the vendor's tool prints them; empty without one."""
    if torch.version.hip:
        return _output("rocm-smi", "--showclocks", "--showpower", "--showtemp", "--showdriverversion")
    return _output("nvidia-smi", f"--query-gpu={_NVIDIA_FIELDS},{_NVIDIA_CLOCKS}", "--format=csv")


def _driver() -> str:
    if torch.version.hip:
        return f"hip {torch.version.hip}"
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]


def _checkout() -> tuple[str, str]:
    commit = _output("git", "-C", str(_ROOT), "rev-parse", "HEAD")
    if not commit:
        return "", ""
    # The results themselves are what a run writes.
    changes = _output("git", "-C", str(_ROOT), "status", "--porcelain", "--", ".", ":!benchmarks/results.csv")
    return commit, "yes" if changes else "no"


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
