"""What is known without a GPU: the code of kernels, launches, bytes, a bound on their speed, and host cost."""
