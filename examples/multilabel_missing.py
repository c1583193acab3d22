"""Several yes-or-no questions about each image, of which 40 % of the answers are missing: NaN, with sample weight 0."""

import numpy as np
import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

pixels, digits = load_digits(return_X_y=True)
questions = {
    "even": (0, 2, 4, 6, 8),
    "five or more": (5, 6, 7, 8, 9),
    "prime": (2, 3, 5, 7),
    "has a loop": (0, 6, 8, 9),
}
truth = torch.tensor(np.stack([np.isin(digits, yes) for yes in questions.values()], 1)).float()
images = torch.tensor(pixels / 16).float()
train, test = slice(0, 1200), slice(1200, None)

torch.manual_seed(0)
known = torch.rand(1200, 4) > 0.4
answers = torch.where(known, truth[train], float("nan"))
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)


def loss(rows):
    """The mean over the answers that are there. ε/2 goes to each of the two sides."""
    logits = model(images[train][rows])
    return ms.binary_loss(logits, answers[rows], label_smoothing=0.05, sample_weight=known[rows])


for _ in range(25):
    for batch in torch.randperm(1200).split(100):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

with torch.no_grad():
    right = ((model(images[test]) > 0) == truth[test].bool()).float().mean(0)
print(f"{(~known).float().mean():.0%} of the answers are missing")
print({question: round(share.item(), 3) for question, share in zip(questions, right, strict=True)})

rows = torch.arange(20)
logits = model(images[train][rows]).detach()
there = known[rows]
expected = ms.binary_loss(logits[there], answers[rows][there], label_smoothing=0.05)

assert right.min() > 0.85
assert torch.allclose(loss(rows), expected)
