"""Descriptions of the ops: ``benchmarks/ops/NAME.py`` for every function that ``fastgan_kernels`` exports."""

from importlib import import_module

from benchmarks.op import Op
from fastgan_kernels.backend import op_names

OPS: dict[str, Op] = {name: import_module(f"{__name__}.{name}").OP for name in op_names()}
