"""A language model's output head on eight devices: tokens split over 2 of them, the vocabulary over 4.

Each step is that of one device, to rounding: the mean is over the tokens of all devices, padding is not counted, and
smoothing spreads over the whole vocabulary. No logits and no features are sent.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import multismooth.jax as ms

jax.config.update("jax_enable_x64", True)
tokens, features, words, steps, rate = 64, 8, 32, 30, 0.5
keys = jax.random.split(jax.random.key(0), 3)
hidden = jax.random.normal(keys[0], (tokens, features))
labels = jax.random.randint(keys[1], (tokens,), 0, words).at[:25].set(-100)  # padding, all of it in the first half
start = 0.1 * jax.random.normal(keys[2], (words, features))
options = {"label_smoothing": 0.1, "ignore_index": -100}


def whole(classifier, hidden, labels):
    return ms.linear_loss(hidden, classifier, labels, **options)


def part(classifier, hidden, labels):
    """What one device does: its tokens, and its rows of the classifier. The labels name words of all devices."""
    count = ms.normalizer(labels, words, ignore_index=-100, axis_name="data")
    loss = ms.linear_loss(hidden, classifier, labels, normalizer=count, axis_name="model", **options)
    return jax.lax.psum(loss, "data")


def wrong(classifier, hidden, labels):
    """The mean over each half's own tokens, and then the mean of both."""
    return jax.lax.pmean(ms.linear_loss(hidden, classifier, labels, axis_name="model", **options), "data")


mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
placed = {"mesh": mesh, "in_specs": (P("model"), P("data"), P("data")), "out_specs": P()}


def curve(loss):
    def step(classifier, _):
        value, gradient = jax.value_and_grad(loss)(classifier, hidden, labels)
        return classifier - rate * gradient, value

    return jax.jit(lambda start: jax.lax.scan(step, start, None, length=steps)[1])(start)


one, eight, means = curve(whole), curve(jax.shard_map(part, **placed)), curve(jax.shard_map(wrong, **placed))
print(f"after {steps} steps: {one[-1]:.9f} on one device, {eight[-1]:.9f} on eight, {means[-1]:.9f} by means of means")

assert jnp.max(jnp.abs(eight - one)) < 1e-12
assert jnp.abs(means[-1] - one[-1]) > 1e-3
