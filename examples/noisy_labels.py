"""A third of the training labels is wrong: what smoothing, focal modulation and online smoothing make of it."""

import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

pixels, digits = load_digits(return_X_y=True)
images, truth = torch.tensor(pixels / 16).float(), torch.tensor(digits)
train, test = slice(0, 1200), slice(1200, None)
noise = torch.rand(1200, generator=torch.Generator().manual_seed(1)) < 0.33
labels = torch.where(noise, torch.randint(10, (1200,), generator=torch.Generator().manual_seed(2)), truth[train])

LOSSES = {
    "no smoothing": lambda z, y, state: ms.loss(z, y, label_smoothing=0.0),
    "ε = 0.3": lambda z, y, state: ms.loss(z, y, label_smoothing=0.3),
    "focal, γ = 2": lambda z, y, state: ms.focal_loss(z, y),
    "online, ε = 0.5": lambda z, y, state: ms.loss(z, y, label_smoothing=0.5, prior=state.prior),
}


def accuracy(loss, seed):
    """Test accuracy, against the true labels."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer, state = torch.optim.AdamW(model.parameters(), lr=3e-3), ms.OnlinePrior.start(10)
    for _ in range(25):
        for batch in torch.randperm(1200).split(100):
            logits = model(images[train][batch])
            optimizer.zero_grad()
            loss(logits, labels[batch], state).backward()
            optimizer.step()
            state = state.update(logits, labels[batch])
        state = state.next_epoch()
    with torch.no_grad():
        return (model(images[test]).argmax(1) == truth[test]).float().mean().item()


found = {name: sum(accuracy(loss, seed) for seed in range(3)) / 3 for name, loss in LOSSES.items()}
print(f"{(labels != truth[train]).float().mean():.0%} of the training labels are wrong")
for name, share in found.items():
    print(f"{name:16} {share:.1%} of the test images right")

assert found["ε = 0.3"] > found["no smoothing"]
