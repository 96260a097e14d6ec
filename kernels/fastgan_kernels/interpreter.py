"""Mends Triton's interpreter; imported only where a process interprets kernels."""

from typing import Any

import triton
from triton.runtime import interpreter

if triton.__version__.startswith("3.6."):
    # The interpreter converts the bounds of a loop by int(array), which NumPy 2.5 allows only for arrays without axes.
    _patch = interpreter._patch_lang_tensor

    def _patch_tensor(tensor: Any, scope: Any) -> None:
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = _patch_tensor
