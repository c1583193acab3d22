"""Every pixel gets a class. Pixels at the border of a stroke are void: label 255, which counts for nothing."""

import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

BACKGROUND, VOID = 10, 255
pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16).float().view(-1, 1, 8, 8)
digits = torch.tensor(digits).view(-1, 1, 1).expand(-1, 8, 8)
labels = torch.where(images[:, 0] > 0.6, digits, BACKGROUND)  # ink has the class of its digit
labels = torch.where((images[:, 0] > 0.3) & (images[:, 0] <= 0.6), VOID, labels)
train, test = slice(0, 1200), slice(1200, None)

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 11 * 64),
    torch.nn.Unflatten(1, (11, 8, 8)),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)


def loss(images, labels):
    """Logits are (batch, class, row, column), so axis=1."""
    return ms.loss(model(images), labels, label_smoothing=0.05, ignore_index=VOID, axis=1)


for _ in range(12):
    for batch in torch.randperm(1200).split(100):
        optimizer.zero_grad()
        loss(images[train][batch], labels[train][batch]).backward()
        optimizer.step()

with torch.no_grad():
    predicted, known = model(images[test]).argmax(1), labels[test] != VOID
    ink = known & (labels[test] != BACKGROUND)
    accuracy = (predicted == labels[test])[ink].float().mean().item()
print(f"{(~known).float().mean():.0%} of the pixels are void; {accuracy:.1%} of the ink has the class of its digit")

logits = model(images[:4]).detach().requires_grad_()
with torch.no_grad():
    logits[(labels[:4] == VOID).unsqueeze(1).expand_as(logits)] = float("nan")  # void pixels may hold anything
value = ms.loss(logits, labels[:4], label_smoothing=0.05, ignore_index=VOID, axis=1)
(gradient,) = torch.autograd.grad(value, logits)

assert accuracy > 0.7
assert torch.isfinite(value)
assert not gradient[(labels[:4] == VOID).unsqueeze(1).expand_as(logits)].any()
