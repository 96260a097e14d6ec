"""Spares Triton's interpreter, in which the kernels are tested, most of its time; what it computes stays the same.

The interpreter passes each operation of a kernel through the checks of the compiler, in Python, and finds the same
types and shapes anew every time: that, not the arithmetic, is its cost. Here whatever follows from types and shapes
alone is kept, and operands that nothing needs to be done to skip the checks. ``test_interpreter.py`` compares the two.
"""

from typing import Any

import numpy as np
import triton
from triton import language as tl
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterOptions, interpreter_builder, interpreter_semantic

# Mends the interpreter of Triton 3.6, which comes before what is kept of it.
import fastgan_kernels  # noqa: F401

_KNOWN = ("3.6.", "3.7.", "3.8.")


def spare() -> bool:
    """Patches the interpreter of this process, for good; of a Triton that it does not know it leaves it as it is.

    Returns:
        Whether it patched it.
    """
    if not triton.__version__.startswith(_KNOWN):
        return False
    _patch_the_language_at_once()
    _keep_types()
    _skip_checks()
    # Else it computes every integer again in 64 bits and then drops the comparison, as ``debug`` is off.
    interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
    return True


def _patch_the_language_at_once() -> None:
    """A launch replaces all of triton.language, and so does each call of a function within it: once is enough."""

    class Kernel:
        __globals__ = {"tl": tl, "core": core}  # noqa: RUF012

    scope = interpreter._patch_lang(Kernel)
    originals: dict[tuple[int, str], tuple[Any, str, Any]] = {}
    for owner, name, original in scope._changes:
        originals.setdefault((id(owner), name), (owner, name, original))

    def interpreted(replacement: Any) -> Any:
        """A builtin as the interpreter calls it, without the two wrappers around it."""
        builtin = (getattr(replacement, "__kwdefaults__", None) or {}).get("member")
        if builtin is None:
            return replacement
        function = getattr(builtin, "__wrapped__", builtin)

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = interpreter_semantic
            return function(*args, **kwargs)

        return call

    changes = [(*original, interpreted(getattr(*original[:2]))) for original in originals.values()]
    scope.restore()

    class Scope:
        patched = False

        def restore(self) -> None:
            self.patched = False
            for owner, name, original, _ in changes:
                if original is interpreter._MISSING:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)

    scope = Scope()

    def patch(_: Any) -> Scope:
        if not scope.patched:
            scope.patched = True
            for owner, name, _, replacement in changes:
                setattr(owner, name, replacement)
        return scope

    interpreter._patch_lang = patch


def _keep_types() -> None:
    """A block's type is found once for its elements and shape, and so are the shape and size of tensors of it."""
    make = core.block_type.__init__
    kept: dict[Any, dict[str, Any]] = {}

    def init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
        key = element_ty.name, *(s.value if isinstance(s, core.constexpr) else s for s in shape)
        if key not in kept:
            make(self, element_ty, shape)
            self.sizes = tuple(self.shape)
            self.of_tensors = core.constexpr(self.numel), core.tuple([core.constexpr(s) for s in self.shape])
            kept[key] = dict(vars(self))
        else:
            vars(self).update(kept[key])

    of_numbers = core.constexpr(1), core.tuple([])

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle = handle
        self.type = type
        self.dtype = type.scalar
        self.numel, self.shape = type.of_tensors if type.is_block() else of_numbers

    equal = core.dtype.__eq__

    core.block_type.__init__ = init_block_type
    core.block_type.to_ir = lambda self, builder: self
    core.tensor.__init__ = init_tensor
    core.dtype.__eq__ = lambda self, other: self is other or equal(self, other)

    np_dtype_of = interpreter._get_np_dtype
    np_dtypes: dict[str, np.dtype] = {}

    def np_dtype(type: Any) -> np.dtype:
        name = type.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = np_dtype_of(type)
        return np_dtypes[name]

    interpreter._get_np_dtype = np_dtype


def _skip_checks() -> None:
    semantic = TritonSemantic
    check, cast, broadcast = semantic.binary_op_type_checking_impl, semantic.cast, semantic.broadcast_impl_value
    floats = {t.name for t in (tl.float32, tl.float64)}
    halves = {t.name for t in (tl.float16, tl.bfloat16)}
    ranges = {
        t.name: range(t.get_int_min_value(), t.get_int_max_value() + 1)
        for t in (tl.int32, tl.int64, tl.uint32, tl.uint64)
    }

    def takes(tensor: Any, number: Any, div_or_mod: bool) -> bool:
        """Whether a number takes the type of the tensor that it is combined with."""
        name = tensor.dtype.name
        if name in floats or (name in halves and not div_or_mod):
            return type(number) is float or (type(number) is int and number in ranges["int32"])
        return type(number) is int and name in ranges and number in ranges[name]

    def checked(
        self: Any,
        lhs: Any,
        rhs: Any,
        allow_lhs_ptr: bool = False,
        allow_rhs_ptr: bool = False,
        arithmetic_check: bool = True,
        div_or_mod: bool = False,
    ) -> tuple[Any, Any]:
        left, right = isinstance(lhs, core.tensor), isinstance(rhs, core.tensor)
        if left and right:
            name = lhs.dtype.name
            if name == rhs.dtype.name and (name in floats or name in ranges or (name in halves and not div_or_mod)):
                return self.broadcast_impl_value(lhs, rhs)
            if allow_lhs_ptr and lhs.dtype.is_ptr() and rhs.dtype.name in ranges:
                return self.broadcast_impl_value(lhs, rhs)
        elif left and arithmetic_check and takes(lhs, rhs, div_or_mod):
            return self.broadcast_impl_value(lhs, self.scalar_constant(rhs, lhs.dtype))
        elif right and arithmetic_check and takes(rhs, lhs, div_or_mod):
            return self.broadcast_impl_value(self.scalar_constant(lhs, rhs.dtype), rhs)
        return check(self, lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod)

    def to_common_shape(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        left, right = lhs.type, rhs.type
        if left.is_block() and right.is_block() and len(left.sizes) == len(right.sizes):
            if left.sizes == right.sizes:
                return lhs, rhs
            sizes = tuple(b if a == 1 else a for a, b in zip(left.sizes, right.sizes, strict=True))
            if all(b in (1, s) for b, s in zip(right.sizes, sizes, strict=True)):
                return tuple(
                    t
                    if t.type.sizes == sizes
                    else self.tensor(
                        self.builder.create_broadcast(t.handle, sizes), core.block_type(t.type.element_ty, list(sizes))
                    )
                    for t in (lhs, rhs)
                )
        return broadcast(self, lhs, rhs)

    def cast_unless_equal(self: Any, input: Any, dst_ty: Any, fp_downcast_rounding: str | None = None) -> Any:
        return input if input.dtype is dst_ty.scalar else cast(self, input, dst_ty, fp_downcast_rounding)

    semantic.binary_op_type_checking_impl = checked
    semantic.broadcast_impl_value = to_common_shape
    semantic.cast = cast_unless_equal
