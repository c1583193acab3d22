# %% [markdown]
# # Calibrate
#
# Smoothing is often said to calibrate a model. On these digits it makes a confident model shy. Here you measure that,
# with its chance level, draw it, and mend it with one number.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import multismooth
from multismooth import calibration

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
order = torch.randperm(len(labels))
train, validation, test = order[:700], order[700:1100], order[1100:]


def logits_of(label_smoothing):
    """Held-out logits of a classifier that was trained with this ε."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        for batch in train.split(100):
            optimizer.zero_grad()
            multismooth.torch.loss(net(images[batch]), labels[batch], label_smoothing=label_smoothing).backward()
            optimizer.step()
    with torch.no_grad():
        return net(images[validation]).numpy(), net(images[test]).numpy()


outputs = {epsilon: logits_of(epsilon) for epsilon in (0.0, 0.2)}
val_labels, test_labels = labels[validation].numpy(), labels[test].numpy()

# %% [markdown]
# ## How far is the confidence off?
#
# An ECE alone says little: a perfectly calibrated model with these confidences and this many samples does not show 0.
# `calibration_test` prints what it would show.

# %%
for epsilon, (_, logits) in outputs.items():
    print(f"ε = {epsilon}:", calibration.calibration_test(logits, test_labels))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for panel, (epsilon, (_, logits)) in zip(axes, outputs.items(), strict=True):
    calibration.reliability_curve(logits, test_labels, bins=10).plot(panel)
    panel.set_title(f"ε = {epsilon}")
plt.show()

# %% [markdown]
# ## Mend it with one number
#
# The temperature is fitted on validation data, and judged on test data. Below 1 means that the model was too shy.

# %%
for epsilon, (val_logits, logits) in outputs.items():
    fit = calibration.fit_temperature(val_logits, val_labels)
    before = calibration.expected_calibration_error(logits, test_labels)
    after = calibration.expected_calibration_error(logits / fit.temperature, test_labels)
    print(f"ε = {epsilon}: {fit}")
    print(f"         ECE on test data {before:.4f} → {after:.4f}")

# %% [markdown]
# ## Which of them would you trust to say "I don't know"?
#
# Reject the least sure predictions first. Smoothing changes the order of confidences, and no temperature can undo that.

# %%
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for epsilon, (_, logits) in outputs.items():
    curve = calibration.risk_coverage(logits, test_labels)
    axes.plot(curve.coverage, curve.risk, label=f"ε = {epsilon}, area {curve.aurc:.4f}")
axes.set(xlabel="share of digits that are answered", ylabel="errors among them")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## More than one seed
#
# One run proves nothing. `multismooth.sweep` trains with several ε and seeds, fits the temperature on validation data,
# and shows means with their standard errors. `multismooth sweep` on the command line does it on these digits.

# %%
assert np.isfinite([calibration.negative_log_likelihood(logits, test_labels) for _, logits in outputs.values()]).all()
