"""Steps as CUDA graphs: the host launches one graph instead of hundreds of kernels.

NVIDIA, "CUDA Graphs" (https://developer.nvidia.com/blog/cuda-graphs/); torch.cuda.CUDAGraph.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.training.iteration import Images, Iteration, Plan

Replay = Callable[[], None]


class Recorder(Protocol):
    """Records what is done on a device, to do it again."""

    def aside(self) -> Any:
        """A context in which everything that is recorded, or may be, is done."""

    def record(self, function: Callable[[], None]) -> Replay:
        """Records ``function`` without doing it."""

    def forget(self) -> None:
        """Gives back the memory of what has been recorded."""


class CudaRecorder:
    """Records CUDA graphs, which share their memory: they never run at the same time.

    Args:
        device: where everything is recorded.
        random: the generators on it that recorded functions draw from, besides torch's own.
    """

    def __init__(self, device: torch.device, random: Sequence[torch.Generator]) -> None:
        self._device = device
        self._random = random
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A stream beside torch's default one, on which nothing can be captured."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def record(self, function: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Each replay goes on with the random numbers where the last one stopped, and eager draws between them do.
        for generator in self._random:
            graph.register_generator_state(generator)
        # Other threads, such as one that pins memory, may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            function()
        return graph.replay

    def forget(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()


class Graphs:
    """Runs an iteration: each plan as it is at first, and as a recorded graph from its second time on.

    The first run compiles and loads kernels and makes the state of the optimizers, which cannot be captured; and a plan
    that is needed once is not worth a graph.

    Args:
        iteration: what to run.
        recorder: of the device.
    """

    def __init__(self, iteration: Iteration, recorder: Recorder) -> None:
        self._iteration = iteration
        self._recorder = recorder
        self._parameters = iteration.parameters()
        self._stage: tuple[int, bool, int] | None = None
        self._seen: set[Plan] = set()
        self._graphs: dict[Plan, tuple[Replay, list[Tensor | None]]] = {}
        self._inputs: list[Images] = []

    def run(self, plan: Plan, given: Sequence[Images] = ()) -> None:
        """As :meth:`Iteration.run`."""
        stage = plan.resolution, plan.fading, plan.batch_size
        if stage != self._stage:
            # What came before does not come again.
            self.forget()
            self._stage = stage
        with self._recorder.aside():
            inputs = self._take_in(given)
            if plan not in self._seen:
                self._seen.add(plan)
                with warnings.catch_warnings():
                    # torch notes that an optimizer which can be captured is not.
                    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                    self._iteration.run(plan, inputs)
                return
            if plan not in self._graphs:
                replay = self._recorder.record(lambda: self._iteration.run(plan, inputs))
                self._graphs[plan] = replay, [parameter.grad for parameter in self._parameters]
            replay, gradients = self._graphs[plan]
            replay()
        # Those of the plan that has just run, for who looks at them.
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def forget(self) -> None:
        """Drops all graphs, whose tensors are no longer those of the run, or whose time is over."""
        self._seen.clear()
        self._graphs.clear()
        self._inputs.clear()
        self._recorder.forget()

    def _take_in(self, given: Sequence[Images]) -> list[Images]:
        """Copies images to where graphs look for them."""
        if not self._inputs:
            self._inputs = [(images.clone(), None if labels is None else labels.clone()) for images, labels in given]
        for (images, labels), (new_images, new_labels) in zip(self._inputs, given, strict=True):
            images.copy_(new_images)
            if labels is not None:
                labels.copy_(new_labels)
        return self._inputs
