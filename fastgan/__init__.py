"""Training of generative adversarial networks on fused Triton kernels."""

__version__ = "0.1.0"
__all__ = ["accelerate", "load_generator", "save_generator"]


def __getattr__(name: str) -> object:
    # On demand, because they import torch.
    if name == "accelerate":
        from fastgan.acceleration import accelerate

        return accelerate
    if name == "load_generator":
        from fastgan.training.checkpoint import load_generator

        return load_generator
    if name == "save_generator":
        from fastgan.exporting import save_generator

        return save_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
