"""The clock of a GPU, held to a simulated one: a queue that the host fills and the device empties."""

import contextlib
import weakref
from types import SimpleNamespace

import pytest
import torch

from benchmarks import devices

_LAUNCH = 30e-6  # seconds of the host for a launch, far more than the kernels below take
_CYCLES_PER_SECOND = 1.5e9


class _Gpu:
    def __init__(self) -> None:
        self.host = 100.0
        self.idle_from = 0.0  # when the device will have finished what is queued
        self.current_stream: object = "default"
        self.captures: list[object] = []

    def launch(self, seconds: float, host: float = _LAUNCH) -> None:
        self.host += host
        self.idle_from = max(self.idle_from, self.host) + seconds

    def synchronize(self) -> None:
        self.host = max(self.host, self.idle_from)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> _Gpu:
    simulated = _Gpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            simulated.launch(0, host=1e-6)
            self.at = simulated.idle_from

        def synchronize(self) -> None:
            simulated.synchronize()

        def elapsed_time(self, end: "Event") -> float:
            return (end.at - self.at) * 1e3

    @contextlib.contextmanager
    def graph(captured: object, pool: object, stream: object):
        assert pool == "own pool"
        assert stream is simulated.current_stream, "a capture on another stream than the autograd graphs were built on"
        yield
        simulated.captures.append(captured)

    fakes = {
        "Event": Event,
        "Stream": lambda: "own stream",
        "set_stream": lambda stream: setattr(simulated, "current_stream", stream),
        "current_device": lambda: 0,
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=50 * 2**20),
        "synchronize": simulated.synchronize,
        "_sleep": lambda cycles: simulated.launch(cycles / _CYCLES_PER_SECOND, host=1e-6),
        "graph": graph,
        "graph_pool_handle": lambda: "own pool",
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: simulated.host)
    return simulated


@pytest.mark.parametrize("count", [3, 1000])
def test_device_time_has_no_launch_gaps_in_it(gpu: _Gpu, count: int):
    device = devices.CudaDevice()

    def kernels() -> None:
        for _ in range(count):
            gpu.launch(2e-6)

    host = device.host_seconds(kernels)
    assert host == pytest.approx(count * _LAUNCH)
    assert device.timed(kernels, host) == pytest.approx(count * 2e-6, rel=1e-3)
    # The simulation has such gaps: without the busy stream they are counted.
    assert device._elapsed(kernels) > (count - 1) * _LAUNCH


def test_wall_time_is_what_the_host_or_the_device_takes_whichever_is_longer(gpu: _Gpu):
    device = devices.CudaDevice()
    assert device.wall([lambda: gpu.launch(2e-6)] * 10) == pytest.approx(_LAUNCH, rel=0.1)
    assert device.wall([lambda: gpu.launch(200e-6)] * 10) == pytest.approx(200e-6, rel=0.2)


def test_earlier_work_is_not_counted(gpu: _Gpu):
    device = devices.CudaDevice()
    gpu.launch(5.0)
    assert device.wall([lambda: gpu.launch(2e-6)]) < 1e-3
    gpu.launch(5.0)
    assert device.timed(lambda: gpu.launch(2e-6), _LAUNCH) == pytest.approx(2e-6, rel=1e-3)


def test_captured_outputs_live_until_the_capture_ends(gpu: _Gpu, monkeypatch: pytest.MonkeyPatch):
    device = devices.CudaDevice()
    alive: list[weakref.ref] = []

    def call() -> tuple[torch.Tensor]:
        assert all(output() is not None for output in alive), "an output's memory would be written again while in cache"
        y = torch.empty(1)
        alive.append(weakref.ref(y))
        return (y,)

    assert device.capture([call] * 4) is not None
    assert len(alive) == 4
    assert len(gpu.captures) == 1
    assert gpu.current_stream == "own stream"


def test_a_clock_that_rises_only_under_load_makes_no_spin_too_short(gpu: _Gpu, monkeypatch: pytest.MonkeyPatch):
    woken = gpu.host + 0.02
    idle, busy = 0.3e9, 1.5e9  # cycles a second

    def sleep(cycles: int) -> None:
        gpu.launch(cycles / (busy if gpu.host > woken else idle), host=1e-6)

    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    device = devices.CudaDevice()
    gpu.host += 1

    def a_kernel() -> None:
        gpu.launch(2e-6)

    assert device.timed(a_kernel, _LAUNCH) == pytest.approx(2e-6, rel=1e-3)


def test_what_a_call_keeps_is_counted_while_it_is_kept(gpu: _Gpu, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 512 * sum(y() is not None for y in alive))

    def call() -> tuple[torch.Tensor]:
        kept, temporary = torch.empty(1), torch.empty(1)
        alive.extend([weakref.ref(kept), weakref.ref(temporary)])
        return (kept,)

    assert devices.CudaDevice().held_bytes(call) == 512
    assert torch.cuda.memory_allocated() == 0


def test_a_capture_that_fails_leaves_a_generator_that_draws_and_an_allocator_that_frees(
    gpu: _Gpu, monkeypatch: pytest.MonkeyPatch
):
    ended = []
    state = SimpleNamespace(capturing=False)
    generator = SimpleNamespace(state=state, clone_state=lambda: SimpleNamespace(capturing=False))
    generator.graphsafe_set_state = lambda new: setattr(generator, "state", new)

    def failing() -> tuple[torch.Tensor]:
        state.capturing = True
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda device, pool, name=name: ended.append((name, pool)), raising=False)
    device = devices.CudaDevice()
    assert device.capture([failing]) is None
    assert not generator.state.capturing
    assert ended == [("_cuda_endAllocateToPool", "own pool"), ("_cuda_releasePool", "own pool")]
