"""Ports a criterion from PyTorch to JAX. `compare` and `identify` show what is wrong; then two ports are right."""

import jax
import optax
import torch

import multismooth.jax as ms
from multismooth import parity

PADDING, EPSILON = 1, 0.1


class Criterion(torch.nn.Module):
    """The original, as in fairseq 0.12: the other words share ε, padding has no loss, and the losses are summed."""

    def forward(self, logits, target):
        counted = target != PADDING
        log_p = logits[counted].log_softmax(-1)
        label = log_p.gather(-1, target[counted][:, None])[:, 0]
        others = log_p.sum(-1) - label
        return -((1 - EPSILON) * label + EPSILON / (logits.shape[-1] - 1) * others).sum()


def first_port(logits, target):
    """A port that looks right: Optax smooths the labels, and the losses are summed."""
    q = optax.smooth_labels(jax.nn.one_hot(target, logits.shape[-1]), EPSILON)
    return optax.softmax_cross_entropy(logits, q).sum()


def port_by_hand(logits, target):
    """The port without its two mistakes: ε/(K − 1) for each other word, and no loss for padding."""
    label = jax.nn.one_hot(target, logits.shape[-1])
    q = (1 - EPSILON) * label + EPSILON / (logits.shape[-1] - 1) * (1 - label)
    return optax.softmax_cross_entropy(logits, q).sum(where=target != PADDING)


def port_by_name(logits, target):
    """The same port as one call of this library."""
    return ms.loss(logits, target, convention="fairseq", ignore_index=PADDING, label_smoothing=EPSILON, reduction="sum")


original = Criterion()
report = parity.compare(first_port, original, ignore_index=PADDING)
print(report)
print()
print("What the port is:", parity.identify(first_port), "", sep="\n")
print("What the original is:", parity.identify(original), "", sep="\n")
assert not report

for port in (port_by_hand, port_by_name):
    print(report := parity.compare(port, original, ignore_index=PADDING))
    assert report
    report = parity.check(port, "fairseq", label_smoothing=EPSILON, reduction="sum")
    print(report)
    assert report
