"""Online label smoothing: after each epoch, the smoothed mass goes to the classes that the model confuses."""

import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

pixels, digits = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16).float(), torch.tensor(digits)
train, test = slice(0, 1000), slice(1000, None)

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer, state = torch.optim.AdamW(model.parameters(), lr=3e-3), ms.OnlinePrior.start(10)
for _ in range(20):
    for batch in torch.randperm(1000).split(50):
        logits = model(images[train][batch])
        optimizer.zero_grad()
        ms.loss(logits, labels[train][batch], label_smoothing=0.5, prior=state.prior).backward()
        optimizer.step()
        state = state.update(logits, labels[train][batch])
    state = state.next_epoch()

off = state.prior.clone().fill_diagonal_(0)
for digit in (3, 8, 9):
    near = off[digit].topk(3)
    print(f"a {digit} may also be", {int(k): round(float(p), 4) for p, k in zip(*near, strict=True)})
with torch.no_grad():
    accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
print(f"test accuracy {accuracy:.3f}; a state has {sum(x.numel() for x in state)} numbers, and is saved like a model")

assert accuracy > 0.9
assert torch.allclose(state.prior.sum(1), torch.ones(10))
assert torch.equal(ms.OnlinePrior(*state).prior, state.prior)
