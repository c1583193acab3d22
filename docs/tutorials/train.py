# %% [markdown]
# # Train with label smoothing
#
# A small classifier on real digits, trained once on the labels and once on smoothed labels. You will see what to log,
# what smoothing does to the loss curve, and how to accumulate gradients without changing the mean.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import multismooth

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
labels = torch.tensor(labels)
order = torch.randperm(len(labels))
train, held_out = order[:1300], order[1300:]
len(train), len(held_out)

# %% [markdown]
# ## The loss
#
# `multismooth.torch.loss` takes logits and labels. ε is 0.1 unless you say otherwise, so we always say it. `terms`
# gives the loss and the *unsmoothed* loss of every element from the same pass over the logits.


# %%
def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def fit(label_smoothing, epochs=30):
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    curve = []
    for _ in range(epochs):
        for batch in train.split(100):
            optimizer.zero_grad()
            loss = multismooth.torch.loss(net(images[batch]), labels[batch], label_smoothing=label_smoothing)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            parts = multismooth.torch.terms(net(images[held_out]), labels[held_out], label_smoothing=label_smoothing)
        curve.append(((parts.loss.sum() / parts.weight.sum()).item(), (parts.nll.sum() / parts.weight.sum()).item()))
    return net, curve


plain, plain_curve = fit(0.0)
smooth, smooth_curve = fit(0.1)

# %% [markdown]
# ## What to look at
#
# The smoothed loss of a perfect model is not 0 but the entropy of its target. `explain` says how much that is. So the
# two losses cannot be compared; their unsmoothed parts can.

# %%
print(multismooth.conventions["torch"].explain(0.1, 10))

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.plot([loss for loss, _ in smooth_curve], label="smoothed loss, ε = 0.1")
axes.plot([nll for _, nll in smooth_curve], label="its unsmoothed part")
axes.plot([loss for loss, _ in plain_curve], label="loss of the other model, ε = 0")
axes.set(xlabel="epoch", ylabel="nats per held-out digit")
axes.legend(frameon=False)
plt.show()


# %%
def accuracy(net):
    return (net(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()


print(f"held-out accuracy: {accuracy(plain):.3f} with ε = 0, {accuracy(smooth):.3f} with ε = 0.1")

# %% [markdown]
# ## Accumulate gradients
#
# The mean of a batch is not the mean of the means of its parts when they count unequally many labels. Divide each part
# by the count of the whole batch: that is what `normalizer` is for.

# %%
batch = train[:12]
targets = labels[batch].clone()
targets[:5] = -100  # the first part has one counted label, the second has six

whole = multismooth.torch.loss(plain(images[batch]), targets)
count = (targets != -100).sum()
parts = [
    multismooth.torch.loss(plain(images[batch][part]), targets[part], normalizer=count)
    for part in (slice(0, 6), slice(6, 12))
]
print(f"whole batch {whole.item():.6f}, sum of its parts {sum(parts).item():.6f}")
assert torch.allclose(whole, sum(parts))
