"""A vocabulary split over 2 processes: as Megatron splits it, as DTensors, and with the sequence split as well.

Neither the logits nor their gradients move between processes, only four numbers per token.
"""

import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import multismooth.torch as ms

WORLD, TOKENS, WORDS, WIDTH = 2, 10, 9, 4  # 9 words: 5 on the first process, 4 on the second
torch.manual_seed(0)
hidden, head = torch.randn(TOKENS, WIDTH, dtype=torch.float64), torch.randn(WORDS, WIDTH, dtype=torch.float64)
labels, options = torch.randint(WORDS, (TOKENS,)), {"label_smoothing": 0.1, "convention": "fairseq"}


def main(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    mesh, group = init_device_mesh("cpu", (WORLD,)), dist.group.WORLD
    x, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    whole = ms.linear_loss(x, w, labels, **options)
    whole.backward()

    def check(name, loss, d_hidden, d_head):
        gradients = [g.full_tensor() if isinstance(g, DTensor) else g for g in (d_hidden, d_head)]
        expected = w.grad if gradients[1].shape == w.grad.shape else w.grad.chunk(WORLD)[rank]
        distance = max((a - b).abs().max().item() for a, b in zip(gradients, (x.grad, expected), strict=True))
        assert max(distance, abs(loss.item() - whole.item())) < 1e-12, name
        if rank == 0:
            print(f"{name}: loss {loss.item():.6f}, gradients those of one process to {distance:.0e}")

    x_all, w_part = hidden.clone().requires_grad_(), head.chunk(WORLD)[rank].clone().requires_grad_()
    loss = ms.linear_loss(x_all, w_part, labels, group=group, num_classes=WORDS, **options)
    loss.backward()  # the gradient of x_all is already summed over the group
    check("local shards", loss.detach(), x_all.grad, w_part.grad)

    w_split = distribute_tensor(head, mesh, [Shard(0)], src_data_rank=None).requires_grad_()
    for name, placement in (("DTensors", Replicate()), ("DTensors, sequence parallel", Shard(0))):
        x_split = distribute_tensor(hidden, mesh, [placement], src_data_rank=None).requires_grad_()
        loss = ms.linear_loss(x_split, w_split, labels, **options)  # a split sequence is gathered, as its head needs
        loss.backward()
        check(name, loss.full_tensor().detach(), x_split.grad, w_split.grad)
        w_split.grad = None
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(main, (f"{folder}/store",), nprocs=WORLD, start_method="fork")
