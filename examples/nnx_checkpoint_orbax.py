"""Flax NNX with Orbax: a model with a fused head is saved and restored, and training goes on as if never stopped.

Arrays among the head's options (here class weights) are in the checkpoint, and are not trained.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx

from multismooth.flax.nnx import LinearLoss

x = jax.random.normal(jax.random.key(0), (64, 20))
labels = jax.random.randint(jax.random.key(1), (64,), 0, 10)


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(20, 32, rngs=rngs)
        self.head = LinearLoss(32, 10, rngs=rngs, label_smoothing=0.1, weight=jnp.linspace(0.5, 2, 10))

    def __call__(self, x, labels):
        return self.head(nnx.relu(self.hidden(x)), labels)


@nnx.jit
def step(model, optimizer):
    loss, gradient = nnx.value_and_grad(lambda model: model(x, labels))(model)
    optimizer.update(model, gradient)
    return loss


def trained(model, optimizer, steps):
    return [float(step(model, optimizer)) for _ in range(steps)]


def fresh(seed):
    model = Classifier(nnx.Rngs(seed))
    return model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


model, optimizer = fresh(0)
trained(model, optimizer, 5)
with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpoints:
    path = Path(folder).absolute() / "step5"
    checkpoints.save(path, nnx.state((model, optimizer)))
    checkpoints.wait_until_finished()
    uninterrupted = trained(model, optimizer, 5)

    model, optimizer = fresh(1)  # other weights, which the checkpoint replaces
    nnx.update((model, optimizer), checkpoints.restore(path, nnx.state((model, optimizer))))
resumed = trained(model, optimizer, 5)
print(f"loss after 10 steps: uninterrupted {uninterrupted[-1]:.6f}, resumed {resumed[-1]:.6f}")
assert resumed == uninterrupted
assert jnp.allclose(model.head.options["weight"], jnp.linspace(0.5, 2, 10))
