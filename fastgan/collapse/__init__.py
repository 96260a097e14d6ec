"""Mode collapse and its remedies: small GANs with and without each remedy, side by side."""
