"""Fused ops for a model written in plain torch, with one call: :func:`accelerate` swaps modules in place."""

from fastgan.acceleration.accelerate import accelerate
from fastgan.acceleration.report import Left, Report, Swapped
