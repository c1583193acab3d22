"""A classifier head with its loss, which never makes the (N, K) logits, with and without smoothing."""

import torch

import multismooth.torch as ms

torch.manual_seed(0)
tokens, features, words = 96, 32, 5000
hidden = torch.randn(tokens, features)
labels = torch.randint(words, (tokens,))


def peak(compute):
    """(result of `compute`, the size in float32 numbers of the largest tensor that one of its operations returns)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.untyped_storage().nbytes() // 4)
            return result

    with Watch() as watch:
        result = compute()
    return result, watch.largest


linear = torch.nn.Linear(features, words)
head = ms.LinearLoss(features, words, label_smoothing=0.1, chunk_rows=8)
head.load_state_dict(linear.state_dict())


def plain():
    loss = torch.nn.functional.cross_entropy(linear(hidden), labels, label_smoothing=0.1)
    return torch.autograd.grad(loss, list(linear.parameters()))


expected, large = peak(plain)
gradients, small = peak(lambda: torch.autograd.grad(head(hidden, labels), list(head.parameters())))
print(f"largest tensor: {large:,} numbers with logits, {small:,} without; logits are {tokens * words:,}")

assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))
assert small < tokens * words <= large
