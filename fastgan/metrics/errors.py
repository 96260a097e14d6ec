"""The one exception of the package."""

from fastgan.errors import InputError


class MetricsError(InputError):
    """Images, features or scores that cannot be judged. The message is one sentence."""
