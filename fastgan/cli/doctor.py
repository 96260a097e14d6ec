"""``fastgan doctor``."""

import os
import platform
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

import fastgan


def doctor() -> int:
    """Report versions, devices, the C compiler that Triton needs, and the backend of each op with the reason."""
    import torch
    from triton import knobs

    from fastgan_kernels import backend_of
    from fastgan_kernels.backend import lacking_for_launches, op_names

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("fastgan", fastgan.__version__)
    platforms = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built_for = " ".join(f"{name} {number}" for name, number in platforms.items() if number) or "the CPU"
    table.add_row("torch", f"{torch.__version__}, built for {built_for}")
    interpreted = ", interpreter on (TRITON_INTERPRET is set)" if knobs.runtime.interpret else ""
    table.add_row("triton", f"{version('triton')}{interpreted}")
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    table.add_row("C compiler", lacking_for_launches() or "found, and Python.h")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    table.add_row(
        "cpu", f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads in torch, {memory:.1f} GiB"
    )
    devices = [torch.device("cpu")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        capability = f"compute capability {properties.major}.{properties.minor}"
        if torch.version.hip:
            capability = properties.gcnArchName
        table.add_row(f"cuda:{index}", f"{properties.name}, {capability}, {free:.1f} of {total:.1f} GiB free")
        devices.append(torch.device("cuda", index))
    if len(devices) == 1:
        table.add_row("gpu", "none visible to torch")
    names = op_names()
    for device in devices:
        by_choice: dict[object, list[str]] = {}
        for op in names:
            by_choice.setdefault(backend_of(op, torch.empty(0, device=device)), []).append(op)
        for choice, ops in by_choice.items():
            some = f"all {len(names)}" if len(ops) == len(names) else ", ".join(ops)
            table.add_row(f"ops on {device}", f"{some} on {choice.backend}: {choice.reason}")
    Console(soft_wrap=True).print(table, highlight=False)
    return 0
