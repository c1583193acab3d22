"""Gradient accumulation: micro-batches with different numbers of tokens add up to exactly the large batch.

The mean of the micro-batches' means is not the mean of the batch. Divide every micro-batch by the count of the batch.
"""

import torch

import multismooth.torch as ms

torch.manual_seed(0)
logits = torch.randn(4, 6, 7, dtype=torch.float64)  # 4 sequences of 6 tokens, 7 words
labels = torch.randint(7, (4, 6))
for sequence, length in enumerate((6, 2, 5, 1)):
    labels[sequence, length:] = -100  # padding


def gradient(loss_of):
    z = logits.clone().requires_grad_()
    loss = loss_of(z)
    return loss.item(), torch.autograd.grad(loss, z)[0]


options = {"axis": -1, "label_smoothing": 0.1}
whole, expected = gradient(lambda z: ms.loss(z, labels, **options))

count = ms.terms(logits, labels, **options).weight.sum()  # known before the first micro-batch
accumulated, sum_of_gradients = gradient(
    lambda z: sum(ms.loss(z[i], labels[i], normalizer=count, **options) for i in range(4))
)
naive, _ = gradient(lambda z: sum(ms.loss(z[i], labels[i], **options) for i in range(4)) / 4)

# Across processes: add up the sums and the weights, then divide once.
parts = [ms.terms(logits[i], labels[i], **options) for i in range(4)]
summed = sum(part.loss.sum() for part in parts) / sum(part.weight.sum() for part in parts)

print(f"one batch {whole:.6f}, four micro-batches {accumulated:.6f}, mean of their means {naive:.6f}")

assert abs(accumulated - whole) < 1e-12
assert torch.allclose(sum_of_gradients, expected, atol=1e-15)
assert abs(summed.item() - whole) < 1e-12
assert abs(naive - whole) > 1e-3
