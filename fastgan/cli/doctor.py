"""``fastgan doctor``."""

import os
import platform
from importlib.metadata import version

from rich.console import Console
from rich.table import Table


def doctor() -> int:
    """Report the hardware and software found, and which backend each op would run on, and why."""
    import torch
    from triton import knobs

    import fastgan_kernels
    from fastgan_kernels.backend import lacking_for_launches, op_names

    console = Console(soft_wrap=True)
    table = Table("what", "found", title="Software and devices")
    table.add_row("fastgan", version("fastgan"))
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    table.add_row("torch", torch.__version__)
    table.add_row("triton", version("triton"))
    table.add_row("C compiler and Python.h", lacking_for_launches() or "found")
    table.add_row("Triton's interpreter", "on (TRITON_INTERPRET is set)" if knobs.runtime.interpret else "off")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    table.add_row(
        "cpu", f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads in torch, {memory:.1f} GiB"
    )
    devices = [torch.device("cpu")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        table.add_row(
            f"cuda:{index}",
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{free:.1f} of {total:.1f} GiB free",
        )
        devices.append(torch.device("cuda", index))
    if len(devices) == 1:
        table.add_row("cuda", "torch sees no CUDA device")
    console.print(table)

    table = Table("op", "device", "backend", "why", title="Backend of each op")
    for op in op_names():
        for device in devices:
            choice = fastgan_kernels.backend_of(op, torch.empty(0, device=device))
            table.add_row(op, str(device), choice.backend, choice.reason)
    console.print(table)
    return 0
