"""A small language model on 4 processes: its vocabulary split over 2, its batch over 2. Its curve is one process's."""

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import multismooth.torch as ms

TEXT = Path(__file__).read_text(encoding="utf-8")
WORDS = sorted(set(TEXT))
TOKENS = torch.tensor([WORDS.index(character) for character in TEXT])
STEPS, WIDTH, CONTEXT, BATCH = 60, 16, 4, 64


def train(group=None, data=None):
    """The losses of all steps: of a vocabulary split over `group`, and batches split over `data`."""
    torch.manual_seed(0)
    mine = slice(None) if data is None else slice(dist.get_rank(data), None, 2)
    sizes, split = (len(WORDS), CONTEXT * WIDTH, len(WORDS)), {}
    table, mix, head = (torch.randn(size, WIDTH, dtype=torch.float64) / 4 for size in sizes)
    if group is not None:  # as Megatron: each process has some rows of the classifier, and all labels
        head, split = head.chunk(2)[dist.get_rank(group)].clone(), {"group": group, "num_classes": len(WORDS)}
    parameters, losses = [x.requires_grad_() for x in (table, mix, head)], []
    for _ in range(STEPS):
        places = torch.randint(CONTEXT, len(TOKENS), (BATCH,))[mine]  # drawn alike on all processes
        context = TOKENS[places[:, None] - torch.arange(CONTEXT, 0, -1)]
        hidden, labels = (table[context].flatten(1) @ mix).tanh(), TOKENS[places]
        count = ms.normalizer(labels, len(WORDS), group=data)
        loss = ms.linear_loss(hidden, head, labels, normalizer=count, **split)
        results = [loss.detach(), *torch.autograd.grad(loss, parameters)]
        for tensor in [] if data is None else results:
            dist.all_reduce(tensor, group=data)
        for parameter, gradient in zip(parameters, results[1:], strict=True):
            parameter.data -= gradient
        losses.append(results[0].item())
    return losses


def main(rank, folder, out=None):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "classes"))
    alone, parts = train(), train(mesh.get_group("classes"), mesh.get_group("data"))
    assert max(abs(a - b) for a, b in zip(alone, parts, strict=True)) < 1e-9
    if rank == 0:
        print(f"loss {parts[0]:.4f} to {parts[-1]:.4f}; on one process {alone[0]:.4f} to {alone[-1]:.4f}")
        plt.plot(alone, linewidth=5, alpha=0.4, label="one process")
        plt.plot(parts, linewidth=1, color="black", label="vocabulary over 2 × batch over 2")
        plt.legend(title="loss (nats) by step", frameon=False)
        plt.savefig(Path(out or folder) / "language_model_parallel.svg")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(main, (folder, *sys.argv[1:2]), nprocs=4, start_method="fork")
