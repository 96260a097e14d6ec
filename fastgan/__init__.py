"""A performance toolkit for training generative adversarial networks."""

__version__ = "0.1.0"
__all__ = ["accelerate"]


def __getattr__(name: str) -> object:
    # Not before it is asked for, since it imports torch.
    if name == "accelerate":
        from fastgan.acceleration import accelerate

        return accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
