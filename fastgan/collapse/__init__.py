"""Compares remedies against mode collapse: trains small GANs with and without each remedy."""
