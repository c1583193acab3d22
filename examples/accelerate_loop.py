"""accelerate: gradient accumulation whose gradient is that of the whole batch, however the padding is spread.

`accelerator.backward` divides by the number of micro-batches, for losses that are means. This loss is a part of the
batch's mean already, so it is multiplied by that number (and by the number of processes, whose gradients are averaged).
"""

import torch
from accelerate import Accelerator

import multismooth.torch as ms

torch.manual_seed(0)
features, labels = torch.randn(8, 16, 12), torch.randint(20, (8, 16))
labels[torch.arange(16) >= torch.tensor([16, 14, 15, 16, 1, 3, 2, 1])[:, None]] = -100  # padding
start = torch.nn.Linear(12, 20).state_dict()


def part_of_the_mean(logits, labels, count, scale):
    return ms.loss(logits, labels, normalizer=count) * scale


def mean(logits, labels, count, scale):
    return ms.loss(logits, labels)


def step(accumulation, loss_of):
    """The gradient of one optimizer step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    model = torch.nn.Linear(12, 20)
    model.load_state_dict(start)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    # Draw the micro-batches of a step before training on them, because their labels are counted first.
    micro_batches = list(zip(features.chunk(accumulation), labels.chunk(accumulation), strict=True))
    count = accelerator.reduce(sum((y != -100).sum() for _, y in micro_batches), "sum")
    for x, y in micro_batches:
        with accelerator.accumulate(model):
            loss = loss_of(model(x), y, count, accelerator.gradient_accumulation_steps * accelerator.num_processes)
            accelerator.backward(loss)
            optimizer.step()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


whole = step(1, mean)
for accumulation in (2, 4, 8):
    own, naive = step(accumulation, part_of_the_mean), step(accumulation, mean)
    off = (naive - whole).norm() / whole.norm()
    print(
        f"{accumulation} micro-batches: gradient {own.norm():.6f}, of the batch {whole.norm():.6f}; naive {off:.0%} off"
    )
    assert torch.allclose(own, whole, atol=1e-6)
    assert off > 0.2
