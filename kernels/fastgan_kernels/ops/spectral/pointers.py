"""Tables of pointers on the device, through which one launch reaches any number of tensors."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_MOST_TABLES = 1024
_tables: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
# Tables that CUDA graphs read at every replay, so they are never freed.
_kept_for_graphs: list[Any] = []


def kept_pointers(tensors: Sequence[Tensor]) -> Tensor:
    """The pointers of tensors that keep their addresses, such as parameters and buffers: int64 [n].

    Each set of addresses is uploaded once, so later calls launch nothing. While a CUDA graph is captured, a kernel
    writes a new set instead (:func:`written_pointers`).
    """
    device = tensors[0].device
    key = device, tuple([tensor.data_ptr() for tensor in tensors])
    table = _tables.get(key)
    if table is None:
        if _is_captured(device):
            return written_pointers(tensors)
        if len(_tables) >= _MOST_TABLES:
            del _tables[next(iter(_tables))]
        table = _tables[key] = upload(device, key[1])
    elif _is_captured(device):
        _kept_for_graphs.append(table)
    return table


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
    padded = [part + part[-1:] * (max(16, 1 << (len(part) - 1).bit_length()) - len(part)) for part in parts]
    table = torch.empty(sum(map(len, padded)), dtype=torch.int64, device=tensors[0].device)
    for i, part in enumerate(padded):
        _write_pointers_kernel[(1,)](table[i * _MOST_AT_ONCE :], part, num_warps=1)
    return table


def prepared_once(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Caches ``prepare(device, ...)``, which makes its tables by :func:`upload`.

    While a CUDA graph is captured, the result is kept for the rest of the process: the graph reads it at every replay.
    """
    cached = functools.lru_cache(maxsize=_MOST_TABLES)(prepare)

    @functools.wraps(prepare)
    def prepared(device: torch.device, *key: Any) -> Any:
        result = cached(device, *key)
        if _is_captured(device):
            _kept_for_graphs.append(result)
        return result

    return prepared


def upload(device: torch.device, values: Sequence[Any]) -> Tensor:
    """An int64 table on ``device``; every stream may read it.

    Raises:
        RuntimeError: while a CUDA graph is captured, which cannot record a copy from the host's memory.
    """
    if _is_captured(device):
        raise RuntimeError(
            "a CUDA graph is being captured and the GPU has no table of these weights yet: run the same ops on weights"
            " of the same shapes once before the capture"
        )
    return torch.tensor(values, dtype=torch.int64, device=device)


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
