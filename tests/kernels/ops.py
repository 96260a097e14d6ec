"""The ops under test: those that the package exports, each described by its module in tests/kernels/specs.

An op that is not differentiated as a function of one tensor has tests of its own instead, named here.
"""

from importlib import import_module

from fastgan_kernels.backend import op_names

TESTED_APART = {"power_iteration": "test_spectral_norm.py"}

_MODULES = {name: import_module(f"tests.kernels.specs.{name}") for name in op_names() if name not in TESTED_APART}

OPS = tuple(module.SPEC for module in _MODULES.values())
TRAFFIC = {name: module.TRAFFIC for name, module in _MODULES.items()}
