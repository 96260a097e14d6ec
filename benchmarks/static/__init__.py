"""What can be measured without a GPU: the code that kernels compile to, the bytes they move, and their launches."""
