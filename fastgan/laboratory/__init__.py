"""The mode-collapse laboratory: small GANs with and without each remedy, side by side."""
