"""Scores of generated images, and detection of mode collapse."""

from fastgan.errors import InputError


class MetricsError(InputError):
    """Images, features or scores that cannot be evaluated. The message is one sentence."""
