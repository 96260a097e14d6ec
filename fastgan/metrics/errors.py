"""The one exception of the package."""


class MetricsError(ValueError):
    """Images, features or scores that cannot be judged. The message is one sentence."""
