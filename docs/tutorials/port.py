# %% [markdown]
# # Port a loss
#
# A training script moves from fairseq to JAX. Its loss is rewritten with Optax, trains well, and is a little off. Here
# you find out what each of the two computes, where they differ, and when the port is right.

# %%
import jax
import optax
import torch

import multismooth
from multismooth import parity

PADDING, EPSILON = 1, 0.1


def original(logits, target):
    """fairseq's criterion: the other words share ε, padding has no loss, and the losses are summed."""
    counted = target != PADDING
    log_p = logits[counted].log_softmax(-1)
    label = log_p.gather(-1, target[counted][:, None])[:, 0]
    others = log_p.sum(-1) - label
    return -((1 - EPSILON) * label + EPSILON / (logits.shape[-1] - 1) * others).sum()


def port(logits, target):
    q = optax.smooth_labels(jax.nn.one_hot(target, logits.shape[-1]), EPSILON)
    return optax.softmax_cross_entropy(logits, q).sum()


# %% [markdown]
# ## What is it?
#
# `identify` calls a loss as a black box, on logits and labels that it makes itself. It needs neither source nor names.

# %%
print(parity.identify(original))

# %%
print(parity.identify(port))

# %% [markdown]
# ## Where do they differ?
#
# `compare` takes two losses of two frameworks. The advice comes first, then a table of all trials, then the smallest
# problem on which they differ, as code to paste.

# %%
report = parity.compare(port, original, ignore_index=PADDING)
for sentence in report.advice:
    print("*", sentence)

# %% [markdown]
# ## The port, by hand
#
# Two things were wrong: each *other* word gets ε/(K − 1), and padding has no loss.


# %%
def port_by_hand(logits, target):
    label = jax.nn.one_hot(target, logits.shape[-1])
    q = (1 - EPSILON) * label + EPSILON / (logits.shape[-1] - 1) * (1 - label)
    return optax.softmax_cross_entropy(logits, q).sum(where=target != PADDING)


report = parity.compare(port_by_hand, original, ignore_index=PADDING)
print(report)
assert report

# %% [markdown]
# ## The port, by name
#
# The convention is in the registry, so the whole port is one call. `check` holds it against the name.


# %%
def port_by_name(logits, target):
    return multismooth.jax.loss(
        logits, target, convention="fairseq", label_smoothing=EPSILON, ignore_index=PADDING, reduction="sum"
    )


report = parity.check(port_by_name, "fairseq", label_smoothing=EPSILON, reduction="sum", ignore_index=PADDING)
print(report)
assert report

# %% [markdown]
# ## To keep Optax's spread
#
# If the new code base smooths over all classes, another ε gives the same targets.

# %%
fairseq, optax_names = multismooth.conventions["fairseq"], multismooth.conventions["optax"]
epsilon = fairseq.smoothing_for(optax_names, EPSILON, 5)
print(f"ε = {EPSILON} in fairseq is ε = {epsilon} in Optax, for 5 words")
assert torch.allclose(torch.tensor(fairseq.target_row(EPSILON, 5)), torch.tensor(optax_names.target_row(epsilon, 5)))
