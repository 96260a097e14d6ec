"""Finds the tensors behind tables of pointers, through which a kernel accesses any number of tensors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from fastgan_kernels.ops.spectral import pointers


@contextmanager
def tables_of_pointers() -> Iterator[Callable[[Tensor], Sequence[Tensor]]]:
    """Records every table of pointers that is made inside the block.

    Yields:
        A function that maps a kernel's argument to the tensors that its pointers point to; to an empty sequence if the
        argument is not such a table or a part of one. The tensors live as long as the block.
    """
    asked: list[tuple[Tensor, Sequence[Tensor]]] = []
    originals = {name: getattr(pointers, name) for name in ("uploaded_pointers", "written_pointers")}
    kept, most = pointers._kept, pointers._MOST_KEPT

    def noting(original: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        def note(tensors: Sequence[Tensor]) -> Tensor:
            table = original(tensors)
            asked.append((table, list(tensors)))
            return table

        return note

    def behind(argument: Tensor) -> Sequence[Tensor]:
        for table, tensors in reversed(asked):
            if argument is table or argument._base is table:
                first = argument.storage_offset() - table.storage_offset()
                return tensors[first : first + argument.numel()]
        return ()

    for name, original in originals.items():
        setattr(pointers, name, noting(original))
    # Every table is made anew: on the meta device, where all pointers are 0, equal shapes would share one.
    pointers._kept, pointers._MOST_KEPT = {}, 0
    try:
        yield behind
    finally:
        pointers._kept, pointers._MOST_KEPT = kept, most
        for name, original in originals.items():
            setattr(pointers, name, original)
