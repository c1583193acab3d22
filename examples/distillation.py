"""A small student learns real digits from a larger teacher, at three temperatures and from labels alone."""

import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

pixels, digits = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16).float(), torch.tensor(digits)
test, STEPS = slice(900, None), 360  # the teacher has 900 labels, the student 300


def trained(width, rows, loss):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS * 50 // rows):
        for batch in torch.randperm(rows).split(50):
            optimizer.zero_grad()
            loss(model(images[batch]), batch).backward()
            optimizer.step()
    return model


@torch.no_grad()
def accuracy(model):
    return (model(images[test]).argmax(1) == labels[test]).float().mean().item()


teacher = trained(512, 900, lambda z, rows: ms.loss(z, labels[rows], label_smoothing=0.0))
with torch.no_grad():
    taught = teacher(images[:900])
alone = trained(16, 300, lambda z, rows: ms.loss(z, labels[rows], label_smoothing=0.0))
students = {}
for heat in (1.0, 2.0, 4.0):  # no labels: the teacher speaks of 600 images that the student has none of
    loss = lambda z, rows, heat=heat: ms.distillation_loss(z, taught[rows], temperature=heat)  # noqa: E731
    students[heat] = trained(16, 900, loss)
print(f"teacher {accuracy(teacher):.3f}, student alone {accuracy(alone):.3f}")
print("students", {heat: round(accuracy(student), 3) for heat, student in students.items()})

assert accuracy(teacher) > accuracy(alone)
assert min(map(accuracy, students.values())) > accuracy(alone) + 0.01
