"""Fused ops for a model written in plain torch, with one call.

:func:`accelerate` finds what it recognises, gives those modules another forward or another class in place, and reports.
"""

from fastgan.acceleration.accelerate import accelerate
from fastgan.acceleration.report import Left, Report, Swapped

__all__ = ["Left", "Report", "Swapped", "accelerate"]
