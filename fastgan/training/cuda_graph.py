"""CUDA graphs of steps: one launch per step instead of hundreds.

NVIDIA, "CUDA Graphs" (https://developer.nvidia.com/blog/cuda-graphs/); torch.cuda.CUDAGraph.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fastgan.errors import first_line
from fastgan.training.check import is_theirs, line_of
from fastgan.training.step import GanStep, Images, Plan

Replay = Callable[[], None]


class CudaRecorder:
    """Records operations on a device as CUDA graphs, which share one memory pool, since they never run at once.

    ``random`` are the device's random generators that recorded functions use, besides torch's default.
    """

    def __init__(self, device: torch.device, random: Sequence[torch.Generator]) -> None:
        self._device = device
        self._random = random
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The context in which steps run and are recorded: torch's default stream does not allow capture."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    @contextmanager
    def waits(self) -> Iterator[list[str]]:
        """A context that lists, as `` (FILE:LINE)``, the user's lines that make the host wait for the device."""
        lines: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lines
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for warning in caught:
            if "synchronizing CUDA operation" in str(warning.message) and is_theirs(warning.filename):
                lines.append(f" ({Path(warning.filename).name}:{warning.lineno})")

    def record(self, function: Callable[[], None]) -> Replay:
        """Records ``function`` without running it."""
        graph = torch.cuda.CUDAGraph()
        # Replays and eager draws between them continue one stream of random numbers.
        for generator in self._random:
            graph.register_generator_state(generator)
        # A failed capture leaves its generators in capture state, so they get new states with the same numbers.
        generators = [*self._random, torch.cuda.default_generators[self._device.index]]
        before = [generator.clone_state() for generator in generators]
        try:
            # Other threads, such as one that pins memory, may call CUDA during capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                function()
        except BaseException:
            for generator, state in zip(generators, before, strict=True):
                generator.graphsafe_set_state(state)
            raise
        return graph.replay

    def forget(self) -> None:
        """Frees the memory of the recordings."""
        self._pool = torch.cuda.graph_pool_handle()


class Graphs:
    """Runs the first step of each plan eagerly, captures the second as a CUDA graph, and replays it from then on.

    The first step compiles and loads kernels and creates the optimizers' state, which cannot be captured; a plan that
    occurs once is not worth a graph. If a step waits for the device or cannot be captured, all later steps run eagerly,
    and ``refused`` is called with a sentence that says why.
    """

    def __init__(self, step: GanStep, recorder: CudaRecorder, refused: Callable[[str], None]) -> None:
        self._step = step
        self._recorder = recorder
        self._refused = refused
        self._is_refused = False
        self._parameters = [*step.generator.parameters(), *step.discriminator.parameters()]
        self._stage: tuple[int, bool, int] | None = None
        self._seen: set[Plan] = set()
        self._graphs: dict[Plan, tuple[Replay, list[Tensor | None]]] = {}
        self._inputs: list[Images] = []

    def run(self, plan: Plan, given: Sequence[Images] = ()) -> None:
        """As :meth:`GanStep.run`."""
        if self._is_refused:
            self._step.run(plan, given)
            return
        stage = plan.resolution, plan.fading, plan.batch_size
        if stage != self._stage:
            # The plans of an earlier stage do not recur.
            self.forget()
            self._stage = stage
        with self._recorder.aside():
            inputs = [*self._copy_inputs(given)]
            if plan not in self._seen:
                self._seen.add(plan)
                # Also hides torch's warning that a capturable optimizer is not being captured.
                with self._recorder.waits() as lines:
                    self._step.run(plan, inputs)
                if lines:
                    self._refuse(f"a step waits for the device{lines[0]}")
                return
            if plan not in self._graphs:
                trained = [parameter.requires_grad for parameter in self._parameters]
                try:
                    replay = self._recorder.record(lambda: self._step.run(plan, inputs))
                except Exception as error:  # a network may raise any type
                    for parameter, requires_grad in zip(self._parameters, trained, strict=True):
                        parameter.grad = None
                        parameter.requires_grad_(requires_grad)
                    self._refuse(f"a step cannot be captured: {first_line(error)}{line_of(error)}")
                    self._step.run(plan, inputs)
                    return
                self._graphs[plan] = replay, [parameter.grad for parameter in self._parameters]
            replay, gradients = self._graphs[plan]
            replay()
        # Each graph has its own gradients; the parameters get those of the last step.
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def forget(self) -> None:
        """Drops all graphs, at the end of a stage or when tensors that they use are replaced."""
        self._seen.clear()
        self._graphs.clear()
        self._inputs.clear()
        self._recorder.forget()

    def _refuse(self, why: str) -> None:
        self.forget()
        self._is_refused = True
        self._refused(f"{why}, so steps run without CUDA graphs")

    def _copy_inputs(self, given: Sequence[Images]) -> list[Images]:
        """Copies images into the tensors that graphs read."""
        if not self._inputs:
            self._inputs = [(images.clone(), None if labels is None else labels.clone()) for images, labels in given]
        for (images, labels), (new_images, new_labels) in zip(self._inputs, given, strict=True):
            images.copy_(new_images)
            if labels is not None:
                labels.copy_(new_labels)
        return self._inputs
