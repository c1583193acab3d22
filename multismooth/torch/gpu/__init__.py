"""Logits on an NVIDIA GPU, computed by Triton's kernels. The rest of the package imports `launch` and `plans`.

plans            makes the plan of a frequent kind of call on the device, in one launch
choice           says which calls the kernels compute, and on which devices
layout           sees logits of any shape and strides as (B, K, P)
tiles            chooses the tile of a kernel
launch           launches the kernels
kernels          the kernels: `forward`, `backward`, `both`, `lookup`, `rescale`
tile_arithmetic  what the kernels compute of a tile
"""
