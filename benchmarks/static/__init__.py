"""What is known of the kernels without a GPU: what they compile to, what they move, what they launch."""
