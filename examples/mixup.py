"""MixUp and CutMix of torchvision and timm: their rows are soft targets. Smooth once, in the data or in the loss."""

import torch
from timm.data import Mixup
from torchvision.transforms import v2

import multismooth.torch as ms

torch.manual_seed(0)
images, labels, K = torch.rand(8, 3, 16, 16), torch.randint(5, (8,)), 5
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, K))

for mix in (v2.MixUp(num_classes=K), v2.CutMix(num_classes=K)):  # rows λ·t_a + (1 − λ)·t_b, unsmoothed
    mixed, rows = mix(images, labels)
    logits = model(mixed)
    ours, theirs = (
        ms.loss(logits, rows, label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, rows),
    )
    print(f"torchvision {type(mix).__name__}: {ours:.6f}, PyTorch {theirs:.6f}")
    assert torch.allclose(ours, theirs, rtol=1e-6)

# timm smooths the rows that it mixes. So the loss must not: label_smoothing=0, or twice the smoothing is trained.
mixed, rows = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=K)(images, labels)
logits = model(mixed)
once, twice = ms.loss(logits, rows, label_smoothing=0.0), ms.loss(logits, rows, label_smoothing=0.1)
soft_target = -(rows * logits.log_softmax(-1)).sum(-1).mean()  # timm's SoftTargetCrossEntropy
print(f"timm Mixup: {once:.6f}, timm's loss {soft_target:.6f}; smoothed twice {twice:.6f}")
assert torch.allclose(once, soft_target, rtol=1e-6)
assert not torch.allclose(twice, soft_target, rtol=1e-4)

# The same without timm's smoothing and with this library's, for any convention.
plain = (rows - 0.1 / K) / 0.9
assert torch.allclose(ms.loss(logits, plain, label_smoothing=0.1), once, rtol=1e-5)

# Rows in half precision are taken as what they were before they were rounded: they sum to 1 within their own dtype.
assert torch.allclose(ms.loss(logits, rows.bfloat16(), label_smoothing=0.0), once, rtol=1e-2)
