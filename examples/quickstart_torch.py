"""Label smoothing in PyTorch: the loss, its gradient, the drop-in, and another convention."""

import torch

import multismooth
import multismooth.torch as ms

torch.manual_seed(0)
logits = torch.randn(8, 5, requires_grad=True)
labels = torch.randint(5, (8,))
labels[0] = -100  # ignored: no loss, no gradient, not counted by the mean

loss = ms.loss(logits, labels, label_smoothing=0.1)
loss.backward()
print(f"loss {loss.item():.4f}")

# The drop-in has the signature of torch's own loss, class axis 1 included.
criterion = ms.CrossEntropyLoss(label_smoothing=0.1)
print(f"drop-in {criterion(logits, labels).item():.4f}")

# In other libraries the same ε means another target. This convention gives the label 1 − ε.
others = ms.loss(logits, labels, label_smoothing=0.1, convention="others")
print(f'"others" {others.item():.4f}')
print(multismooth.conventions["others"].explain(0.1, 5))

reference = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
assert torch.allclose(loss, reference)
assert torch.allclose(logits.grad, torch.autograd.grad(reference, logits)[0], atol=1e-7)
assert torch.equal(logits.grad[0], torch.zeros(5))
assert torch.allclose(others, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1 * 5 / 4))
