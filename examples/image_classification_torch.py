"""Real digits, with dropout and weight decay: ε is chosen on validation images, and reported on images of its own."""

import torch
from sklearn.datasets import load_digits

import multismooth.torch as ms

pixels, digits = load_digits(return_X_y=True)
order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
images, labels = torch.tensor(pixels / 16).float()[order], torch.tensor(digits)[order]
train, validation, test = slice(0, 800), slice(800, 1200), slice(1200, None)


def trained(epsilon):
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(128, 10)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(20):
        for batch in torch.randperm(800).split(64):
            optimizer.zero_grad()
            ms.loss(model(images[train][batch]), labels[train][batch], label_smoothing=epsilon).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def measured(model, part):
    """(accuracy, the loss without smoothing, which alone is comparable between two ε)."""
    logits = model(images[part])
    return (logits.argmax(1) == labels[part]).float().mean().item(), ms.terms(logits, labels[part]).nll.mean().item()


models = {epsilon: trained(epsilon) for epsilon in (0.0, 0.05, 0.1, 0.2)}
for epsilon, model in models.items():
    print("ε = {}: validation accuracy {:.3f}, nll {:.3f}".format(epsilon, *measured(model, validation)))
best = max(models, key=lambda epsilon: measured(models[epsilon], validation)[0])
accuracy, nll = measured(models[best], test)
print(f"chosen ε = {best}: test accuracy {accuracy:.3f}, nll {nll:.3f}")

assert accuracy > 0.93
assert measured(models[0.2], validation)[1] > measured(models[0.0], validation)[1]  # less sure: fit a temperature
