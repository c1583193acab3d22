"""Data parallelism and accumulation with unequal padding: 2 processes × 2 micro-batches are exactly one batch.

DDP and FSDP average gradients over processes. The mean of local means then weights a token by the padding around it.
Divide every micro-batch by the count of the whole batch instead, and undo the average.
"""

import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import multismooth.torch as ms

WORLD, WORDS = 2, 7
torch.manual_seed(0)
inputs = torch.randn(48, 5, dtype=torch.float64)  # 8 sequences of 6 tokens
labels = torch.randint(WORDS, (8, 6))
for sequence, length in enumerate((6, 2, 5, 1, 3, 6, 1, 2)):
    labels[sequence, length:] = -100  # padding
labels = labels.flatten()
weight = torch.randn(WORDS, 5, dtype=torch.float64)


def model():
    layer = torch.nn.Linear(5, WORDS, bias=False, dtype=torch.float64)
    layer.load_state_dict({"weight": weight})
    return layer


def main(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    whole = model()
    ms.loss(whole(inputs), labels).backward()
    averaging, sharded, summing = DistributedDataParallel(model()), model(), model()
    for module in (sharded, summing):
        fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)))
    summing.set_gradient_divide_factor(1.0)  # FSDP2 then sums

    mine = slice(24 * rank, 24 * rank + 24)
    count = ms.normalizer(labels[mine], WORDS, group=dist.group.WORLD)  # of all micro-batches and ranks
    for name, module, factor in (("DDP", averaging, WORLD), ("FSDP2", sharded, WORLD), ("FSDP2, sum", summing, 1)):
        for x, y in zip(inputs[mine].split(12), labels[mine].split(12), strict=True):  # two micro-batches
            (ms.loss(module(x), y, normalizer=count) * factor).backward()
        gradient = next(module.parameters()).grad
        gradient = gradient if name == "DDP" else gradient.full_tensor()
        distance = (gradient - whole.weight.grad).abs().max().item()
        if rank == 0:
            print(f"{name}: the gradient of 2 × 2 micro-batches is that of one batch to {distance:.0e}")
        assert distance < 1e-12
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(main, (f"{folder}/store",), nprocs=WORLD, start_method="fork")
