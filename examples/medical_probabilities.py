"""Breast cancer, benign or malignant: where the probability itself is the result, smoothing should NOT be used.

The example shows what it does there: it moves every probability towards 1/2, also those that were right.
"""

import torch
from sklearn.datasets import load_breast_cancer

import multismooth.torch as ms

measurements, benign = load_breast_cancer(return_X_y=True)
x, y = torch.tensor(measurements).float(), torch.tensor(1 - benign).float()  # 1: malignant
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
x, y = x[order], y[order]
train, test = slice(0, 300), slice(300, None)
x = (x - x[train].mean(0)) / x[train].std(0)


def probabilities(epsilon):
    """Of malignancy, for the test patients, by logistic regression."""
    torch.manual_seed(0)
    model = torch.nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = ms.binary_loss(model(x[train])[:, 0], y[train], label_smoothing=epsilon)
        loss = loss + 1e-3 * model.weight.square().sum()  # as weight decay
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return torch.sigmoid(model(x[test])[:, 0])


def nll(p):
    return torch.nn.functional.binary_cross_entropy(p, y[test]).item()


print("    ε   accuracy   nll    sure patients (p < 2 %)   of these malignant")
found = {epsilon: probabilities(epsilon) for epsilon in (0.0, 0.1, 0.3)}
for epsilon, p in found.items():
    sure, accuracy = p < 0.02, ((p > 0.5) == y[test].bool()).float().mean().item()
    malignant = y[test][sure].mean().item() if sure.any() else 0.0
    print(f"  {epsilon:.1f}     {accuracy:.3f}   {nll(p):.3f}     {int(sure.sum()):4d} of {len(p)}", end="")
    print(f"              {malignant:.1%}")
print("Smoothing leaves the decisions, and takes away the patients who could be told that they are well.")

assert nll(found[0.0]) < nll(found[0.1]) < nll(found[0.3])
assert (found[0.0] < 0.02).sum() > 2 * (found[0.3] < 0.02).sum()
