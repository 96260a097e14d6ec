"""Two clocks behind one interface: events on a GPU's stream, and the host's clock on a CPU (toy size only)."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

AnyCall = Callable[[], Any]

_LONGEST_SPIN = (
    0.1  # seconds; the stream is kept busy while the host launches a call, a training step within tens of milliseconds
)


class CpuDevice:
    """Runs the code of the benchmark where there is no GPU. Its figures say nothing about the kernels."""

    kind = "cpu"
    place = torch.device("cpu")
    cache_bytes = 128  # so small that buffers rotate at toy size as well

    def synchronize(self) -> None:
        pass

    def timed(self, call: AnyCall, host_seconds: float) -> float:
        return self.wall([call])

    def wall(self, calls: Sequence[AnyCall]) -> float:
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) / len(calls)

    def host_seconds(self, call: AnyCall) -> float:
        return 0.0  # a CPU has no queue

    def capture(self, calls: Sequence[AnyCall]) -> AnyCall | None:
        return None  # a CPU has no graphs

    def held_bytes(self, call: AnyCall) -> int:
        return 0  # memory of the CPU is not counted

    def peak_bytes(self, call: AnyCall) -> int | None:
        return None


class CudaDevice:
    """An NVIDIA GPU, or an AMD GPU, which torch reaches by the same names.

    Create one per process, before any tensor. Everything then runs on one stream that is not the default stream:
    autograd runs each backward node on the stream of its forward pass, and a capture allows only its own stream.
    """

    kind = "rocm" if torch.version.hip else "cuda"

    def __init__(self) -> None:
        self.place = torch.device("cuda", torch.cuda.current_device())
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        self.cache_bytes = torch.cuda.get_device_properties(self.place).L2_cache_size
        if torch.version.hip:
            # An MI300 has a memory-side cache of 256 MB behind its L2, which the properties do not list.
            self.cache_bytes = max(self.cache_bytes, 256 * 2**20)
        self._cycles_per_second = self._measure_spin()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def timed(self, call: AnyCall, host_seconds: float) -> float:
        """Seconds between events around one call.

        The stream is kept busy while the host queues the call, so gaps between launches do not count as device time.
        """
        self._spin(2 * host_seconds + 20e-6)
        return self._elapsed(call)

    def wall(self, calls: Sequence[AnyCall]) -> float:
        """Seconds per call, on the host's clock, until the device has finished all of ``calls``."""
        self.synchronize()
        start = time.perf_counter()
        for call in calls:
            call()
        self.synchronize()
        return (time.perf_counter() - start) / len(calls)

    def host_seconds(self, call: AnyCall) -> float:
        """Seconds that the host needs to queue a call."""
        self.synchronize()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def capture(self, calls: Sequence[AnyCall]) -> AnyCall | None:
        """Captures ``calls`` as one replayable graph; returns ``None`` where they cannot be captured.

        Run the calls before: nothing may be compiled during a capture.
        """
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        outputs = []
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                # Outputs are kept to the end of the capture, else the next call would write to memory still in cache.
                outputs.extend(call() for call in calls)
        except RuntimeError:
            self.synchronize()
            self._end_failed_capture(pool)
            return None
        return graph.replay

    def _end_failed_capture(self, pool: Any) -> None:
        # torch itself does not clean up (CUDAGraph::capture_end returns at the first error). Without this CUDA's
        # random generator would refuse to draw for the rest of the process, and the allocator would not free cached
        # memory when it runs out.
        generator = torch.cuda.default_generators[self.place.index]
        generator.graphsafe_set_state(generator.clone_state())
        with contextlib.suppress(RuntimeError):  # the capture had ended, and something after it failed
            torch._C._cuda_endAllocateToPool(self.place.index, pool)
            torch._C._cuda_releasePool(self.place.index, pool)

    def held_bytes(self, call: AnyCall) -> int:
        """Bytes of memory held by what a call returns."""
        before = torch.cuda.memory_allocated()
        kept = call()
        held = torch.cuda.memory_allocated() - before
        del kept
        return held

    def peak_bytes(self, call: AnyCall) -> int | None:
        """The most bytes that a call allocates beyond what was allocated before it."""
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before

    def _elapsed(self, call: AnyCall) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def _spin(self, seconds: float) -> None:
        torch.cuda._sleep(int(min(seconds, _LONGEST_SPIN) * self._cycles_per_second))

    def _measure_spin(self) -> float:
        # The fastest of many runs: an idle chip needs some milliseconds to reach its highest clock, and a rate measured
        # at a lower clock would make every later spin too short.
        cycles = 1_000_000
        return cycles / min(self._elapsed(lambda: torch.cuda._sleep(cycles)) for _ in range(100))


def device() -> CpuDevice | CudaDevice:
    """The current GPU, or the CPU where there is no GPU."""
    return CudaDevice() if torch.cuda.is_available() else CpuDevice()
