"""Training: settings, trainer, EMA, checkpoints and reports. This package imports none of its modules, so that reading
the settings does not import torch."""
