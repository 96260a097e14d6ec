"""Run by test_launch.py over a stub of CUDA's driver: prints what the driver got, and what calls of ops cost."""

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from benchmarks.static.host_cost import _calls, stub_driver


def python_calls(function: Callable[[], Any]) -> list[str]:
    """The names of all Python functions that a call runs, in order."""
    called = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return called


with stub_driver() as stub:
    import torch
    import triton
    from torch import Tensor
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from fastgan_kernels.launch import Launch
    from fastgan_kernels.ops.bias_act import _forward_launch

    by_triton = 0
    run = JITFunction.run

    def counting(*args: Any, **kwargs: Any) -> Any:
        global by_triton
        by_triton += 1
        return run(*args, **kwargs)

    JITFunction.run = counting

    def record(launch: Launch, *tensors: Tensor | None) -> list[int]:
        """1 if Triton's own path launched, then what the driver got."""
        before = by_triton, stub.stub_launches()
        launch(*tensors)
        assert stub.stub_launches() == before[1] + 1
        return [by_triton - before[0], *stub.stub_last()[: 8 + 6]]

    settings = "lrelu", 0.2, 1.0, None
    memory, bias = torch.zeros(4 * 3 * 8 + 1), torch.zeros(3)
    x, y = memory[:-1].view(4, 3, 8), torch.zeros(4, 3, 8)
    launch = _forward_launch(x.shape, True, x.dtype, *settings)
    stub.stub_remember(6)
    cases = {
        "aligned": (x, bias, y),
        "misaligned": (memory[1:].view(4, 3, 8), bias, y),
        "other memory": (x.clone(), bias.clone(), y.clone()),
        "another type": (x, bias.half(), y),
        "absent": (x, None, y),
    }
    found = {}
    for name, tensors in cases.items():
        # Without an operand there is an argument less.
        stub.stub_remember(6 - (tensors[1] is None))
        found[name] = [record(launch, *tensors) for _ in range(3)]
    stub.stub_remember(6)
    other = _forward_launch(x.shape, True, x.dtype, "relu", 0.2, 1.0, None)
    found["another constant"] = [record(other, x, bias, y) for _ in range(3)]

    # An instrumented kernel, for which Triton allocates memory at each launch.
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8))
    instrumented = Launch(launch._kernel, launch._grid, launch._numbers, **launch._constants)
    compiled = launch._kernel[launch._grid](x, bias, y, *launch._numbers, **launch._constants)
    compiled.run.global_scratch_size = 64
    found["instrumented"] = [record(instrumented, x, bias, y) for _ in range(3)]
    compiled.run.global_scratch_size = 0

    hooked = []
    knobs.runtime.launch_enter_hook.add(hooked.append)
    found["observed"] = [record(launch, x, bias, y) for _ in range(2)]
    knobs.runtime.launch_enter_hook.remove(hooked.append)
    found["hooked"] = [metadata.get()["name"] for metadata in hooked]
    found["no longer observed"] = [record(launch, x, bias, y)]

    driver.active.get_current_stream = lambda device: 5
    found["stream"] = [record(launch, x, bias, y)]
    driver.active.get_current_stream = lambda device: device
    driver.active.get_current_device = lambda: 1
    found["device"] = [record(launch, x, bias, y) for _ in range(3)]
    driver.active.get_current_stream = driver.active.get_current_device = lambda *_: 0

    costs = {}
    for name, pass_, fused, _ in _calls([]):
        for _ in range(3):
            before = stub.stub_launches()
            fused()
        launches = stub.stub_launches() - before
        by_triton = 0
        called = python_calls(fused)
        costs[f"{name}/{pass_}"] = launches, by_triton, len(called)
    print(json.dumps([found, costs]))
