"""The Triton kernels for PyTorch on a GPU: tiles, launches, and the plans that are made on the device."""
