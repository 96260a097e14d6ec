"""A performance toolkit for training generative adversarial networks."""

__version__ = "0.1.0"
__all__ = ["accelerate", "load_generator", "save_generator"]


def __getattr__(name: str) -> object:
    # Not before they are asked for, since they import torch.
    if name == "accelerate":
        from fastgan.acceleration import accelerate

        return accelerate
    if name in ("load_generator", "save_generator"):
        from fastgan import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
