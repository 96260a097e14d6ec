"""Experiments that show what the models, losses and regularizers do; never part of the wheel."""
