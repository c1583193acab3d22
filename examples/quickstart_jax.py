"""Label smoothing in JAX: integer labels, no one-hot rows, and a schedule of ε that compiles once."""

import jax
import jax.numpy as jnp
import optax

import multismooth.jax as ms

key = jax.random.key(0)
logits = jax.random.normal(key, (8, 5))
labels = jax.random.randint(key, (8,), 0, 5)
compilations = 0


@jax.jit
def step(logits, epsilon):
    global compilations
    compilations += 1  # runs while JAX traces, not when it computes
    return jax.value_and_grad(ms.loss)(logits, labels, label_smoothing=epsilon)


for epsilon in jnp.linspace(0.0, 0.2, 5):
    loss, gradient = step(logits, epsilon)
    print(f"ε = {epsilon:.2f}: loss {loss:.4f}")

rows = optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.2)
reference, expected = jax.value_and_grad(lambda z: optax.softmax_cross_entropy(z, rows).mean())(logits)
assert jnp.allclose(loss, reference)
assert jnp.allclose(gradient, expected, atol=1e-7)
assert compilations == 1
