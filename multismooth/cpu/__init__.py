"""What runs on a CPU: the kernels in NumPy, the loop over chunks that all kernels share, buffers, threads, Numba."""
