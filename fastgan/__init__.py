"""A performance toolkit for training generative adversarial networks."""

__version__ = "0.1.0"
