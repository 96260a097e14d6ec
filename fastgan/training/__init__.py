"""Training: settings, the loop, averaging, checkpoints and what is reported. Its modules are imported one by one, so
that reading the settings does not import torch."""
