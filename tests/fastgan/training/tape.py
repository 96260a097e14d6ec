"""What a CUDA graph does, on the CPU: operations are recorded with the tensors and Python numbers that they were given,
and done again on the same memory, whatever Python would have decided by then."""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **kwargs or {})
        self.operations.append((func, args, kwargs or {}, results))
        return results


class Tape:
    """A recorder as :class:`fastgan.training.cuda_graph.CudaRecorder`, of what is done on the CPU.

    Recording a CUDA graph does nothing, so what was done here is undone: ``state`` gives the tensors and generators
    that the recorded function may change.
    """

    def __init__(self, state):
        self._state = state
        self.recorded = 0
        self.recording = False
        self.waiting = []
        self.replayed = 0

    def aside(self):
        return nullcontext()

    @contextmanager
    def waits(self):
        yield self.waiting

    def record(self, function):
        tensors, generators = self._state()
        before = [t.clone() for t in tensors], [g.get_state() for g in generators]
        self.recording = True
        try:
            with _Recording() as tape:
                function()
        finally:
            self.recording = False
            with torch.no_grad():
                for tensor, value in zip(tensors, before[0], strict=True):
                    tensor.copy_(value)
            for generator, value in zip(generators, before[1], strict=True):
                generator.set_state(value)
        self.recorded += 1
        return lambda: self._replay(tape.operations)

    def forget(self):
        pass

    def _replay(self, operations):
        self.replayed += 1
        with torch.no_grad():
            for func, args, kwargs, results in operations:
                given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
                for old, new in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
                    # What an operation wrote in place is there already, and so is a view of what was given.
                    if isinstance(old, torch.Tensor) and id(old) not in given and not _shares_memory(old, args):
                        old.copy_(new)


def _shares_memory(tensor, args):
    storages = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t.numel()}
    return tensor.numel() and tensor.untyped_storage().data_ptr() in storages
