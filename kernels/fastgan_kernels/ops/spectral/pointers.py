"""Tables of pointers on the device, through which one launch reaches any number of tensors."""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.launch import Launch

# A benchmark of one op takes some hundred sets of buffers in turn.
_MOST_KEPT = 4096
# What was made, by key, the least recently used first.
_kept: dict[Any, Any] = {}
_NEW = object()
# Tables that CUDA graphs read at every replay, so they are never freed.
_kept_for_graphs: list[Any] = []


def kept_by_tensors(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what ``make`` returns for one or more lists of tensors and then hashable values.

    The tensors are compared by all that kernels depend on: addresses, shapes, strides, types and devices. The least
    recently used results make room. While a CUDA graph is captured, a result that it reads is kept for the rest of the
    process, and a new one, whose pointers the graph itself writes, is not kept.
    """

    def made(*args: Any) -> Any:
        lists = [arg for arg in args if isinstance(arg, list)]
        tensors = list(itertools.chain.from_iterable(lists))
        key = (
            make,
            *map(len, lists),
            *args[len(lists) :],
            *map(Tensor.data_ptr, tensors),
            *[t.shape for t in tensors],
            *map(Tensor.stride, tensors),
            *[t.dtype for t in tensors],
            *map(Tensor.get_device, tensors),
        )
        captured = _captures(tensors[0].device)
        result = _kept.pop(key, _NEW)
        if result is _NEW:
            result = make(*args)
            if captured:
                return result
        elif captured:
            _kept_for_graphs.append(result)
        _kept[key] = result
        if len(_kept) > _MOST_KEPT:
            _kept.pop(next(iter(_kept)), None)
        return result

    return made


def uploaded_pointers(tensors: Sequence[Tensor]) -> Tensor:
    """The pointers of tensors that keep their addresses, such as parameters and buffers: int64 [n].

    While a CUDA graph is captured, a kernel writes them (:func:`written_pointers`).
    """
    if _captures(tensors[0].device):
        return written_pointers(tensors)
    return upload(tensors[0].device, [tensor.data_ptr() for tensor in tensors])


_MOST_AT_ONCE = 256


@triton.jit
def _write_pointers_kernel(table_ptr, tensors):
    for i in tl.static_range(len(tensors)):
        tl.store(table_ptr + i, tensors[i].to(tl.int64))


def written_pointers(tensors: Sequence[Tensor]) -> Tensor:
    """The pointers of tensors that are new at each call, such as gradients and outputs: int64 [n] or longer.

    They are passed as arguments of a kernel, 256 per launch. Nothing is copied from the host, so a CUDA graph can
    record it.
    """
    parts = [tuple(tensors[i : i + _MOST_AT_ONCE]) for i in range(0, len(tensors), _MOST_AT_ONCE)]
    # Padded to few lengths, so that few kernels are compiled.
    padded = [part + part[-1:] * (max(8, 1 << (len(part) - 1).bit_length()) - len(part)) for part in parts]
    table = torch.empty(sum(map(len, padded)), dtype=torch.int64, device=tensors[0].device)
    for i, part in enumerate(padded):
        _write_pointers(table[i * _MOST_AT_ONCE :] if i else table, part)
    return table


_write_pointers = Launch(_write_pointers_kernel, (1,), num_warps=1)


def prepared_once(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Caches ``prepare(device, ...)``, which makes its tables by :func:`upload`.

    While a CUDA graph is captured, the result is kept for the rest of the process: the graph reads it at every replay.
    """
    cached = functools.lru_cache(maxsize=1024)(prepare)

    @functools.wraps(prepare)
    def prepared(device: torch.device, *key: Any) -> Any:
        result = cached(device, *key)
        if _captures(device):
            _kept_for_graphs.append(result)
        return result

    return prepared


def upload(device: torch.device, values: Sequence[Any]) -> Tensor:
    """An int64 table on ``device``; every stream may read it.

    Raises:
        RuntimeError: while a CUDA graph is captured, which cannot record a copy from the host's memory.
    """
    if _captures(device):
        raise RuntimeError(
            "a CUDA graph is being captured and the GPU has no table of these weights yet: run the same ops on weights"
            " of the same shapes once before the capture"
        )
    # The thread keeps it out of the memory of a region that torch.compile's mode "reduce-overhead" is about to capture:
    # torch raises where memory of such a region stays in use.
    with ThreadPoolExecutor(1) as outside:
        return outside.submit(torch.tensor, values, dtype=torch.int64, device=device).result()


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
