"""Records torch's own operators that move bytes between the kernels: copies, casts, composed derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_")
"""Operators that write their first argument without reading it."""

_MADE_LIKE = ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
"""Operators that do not read their argument: they only take its shape, type and layout."""


class TorchOperators(TorchDispatchMode):
    """Calls ``note`` with the name, inputs and outputs of every torch operator that moves bytes.

    Views, allocations and operators on empty tensors are skipped. Works on the meta device too.
    """

    def __init__(self, note: Callable[[str, Sequence[Tensor], Sequence[Tensor]], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, returned = _tensors((args, kwargs)), _tensors(result)
        schema = func._schema
        name = schema.name.split("::")[1]
        in_place = [
            tensor
            for argument, value in zip(schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for tensor in _tensors(value)
        ]
        if in_place:
            read, written = given[len(in_place) :] if name in _OVERWRITING else given, in_place
        elif "empty" in name or name == "_efficientzerotensor" or _shares_memory(returned, given):
            return result
        else:
            read, written = [] if name in _MADE_LIKE else given, returned
        if any(tensor.numel() for tensor in written):
            self._note(str(func), read, written)
        return result


def extent(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor and one past its last byte, from the start of its storage."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * tensor.element_size()
    return start, start + (last + 1) * tensor.element_size()


def touched_bytes(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor; an expanded tensor has fewer than its elements need."""
    start, end = extent(tensor)
    return min(tensor.nbytes, end - start) if tensor.numel() else 0


def _shares_memory(returned: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    # Compares storages, since every address on the meta device is 0.
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    return any(tensor.untyped_storage()._cdata in storages for tensor in returned)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
