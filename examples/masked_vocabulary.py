"""A masked vocabulary: with `class_mask`, smoothing works where logits are −inf for words that cannot occur."""

import math

import torch

import multismooth.torch as ms

torch.manual_seed(0)
logits = torch.randn(5, 10, dtype=torch.float64)
labels = torch.tensor([0, 3, 5, 3, 8])
possible = torch.ones(5, 10, dtype=torch.bool)  # each position has its own vocabulary
possible[0, 6:] = False
possible[1, ::2] = False
logits[~possible] = -math.inf
logits.requires_grad_()

without_mask = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
loss = ms.loss(logits, labels, class_mask=possible, label_smoothing=0.1)
loss.backward()
print(f"without class_mask {without_mask.item()}, with it {loss.item():.4f}")

# The same by hand: each row over its own words only.
rows = [
    torch.nn.functional.cross_entropy(z[mask], mask.cumsum(0)[y] - 1, label_smoothing=0.1)
    for z, y, mask in zip(logits, labels, possible, strict=True)
]

assert without_mask.isinf()
assert torch.allclose(loss, torch.stack(rows).mean())
assert logits.grad.isfinite().all()
assert not logits.grad[~possible].any()
