"""Runs a model written in plain torch on fused ops: :func:`accelerate` swaps modules in place."""

from fastgan.acceleration.accelerate import accelerate
from fastgan.acceleration.report import Left, Report, Swapped
