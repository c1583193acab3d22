"""Logits on an NVIDIA GPU, computed by Triton's kernels. The rest of the package imports `launch` and `plans`.

plans            makes the plan of an everyday call on the device, in one launch or two
choice           says which calls the kernels compute, and on which devices
layout           sees logits of any shape and strides as (B, K, P)
tiles            chooses the tile of a kernel
arguments        a plan as the kernels take it
launch           launches the kernels
dispatch         launches a kernel again without Triton's search for it
kernels          the kernels of logits: `forward`, `backward`, `both`; and `lookup`, `rescale`
soft_kernels     the same three for soft targets
plan_kernels     the kernels that make a plan from arrays: `everyday`, `sums`, `guard`
tile_arithmetic  what the kernels compute of a tile
soft_arithmetic  the same with soft targets
adding_up        how they add up the losses of all tiles
"""
