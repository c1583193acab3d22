"""Plain PyTorch with AMP: bfloat16 autocast, and float16 with a GradScaler. Forward and loss stand in autocast.

On a GPU write "cuda" for "cpu".
"""

import torch

import multismooth.torch as ms

torch.manual_seed(0)
x, labels = torch.randn(256, 20), torch.randint(10, (256,))


def trained(loss, dtype, device="cpu"):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)  # bfloat16 needs none
    losses = []
    for rows in torch.arange(256, device=device).split(32):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            value = loss(model(x[rows]), labels[rows])
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)  # so that the norm is that of the gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(value.detach())
    return torch.stack(losses), scaler.get_scale()


def ours(logits, labels):
    return ms.loss(logits, labels, label_smoothing=0.1)


full, _ = trained(ours, torch.float32)
for dtype in (torch.bfloat16, torch.float16):
    found, scale = trained(ours, dtype)
    expected, _ = trained(torch.nn.CrossEntropyLoss(label_smoothing=0.1), dtype)
    furthest = (found - expected).abs().max()
    print(
        f"{dtype}: loss {found[-1]:.5f}, float32 {full[-1]:.5f}; at most {furthest:.0e} from PyTorch's; scale {scale:g}"
    )
    assert found.dtype == torch.float32
    assert furthest < 1e-3
    assert torch.allclose(found, full, rtol=1e-2)
assert scale == 65536  # no step was skipped
