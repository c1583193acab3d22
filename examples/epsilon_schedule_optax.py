"""JAX with Optax: ε follows an Optax schedule. It is a traced number, so all of its values share one compilation."""

import jax
import jax.numpy as jnp
import optax

import multismooth.jax as ms

key = jax.random.key(0)
x = jax.random.normal(key, (128, 20))
labels = jax.random.randint(key, (128,), 0, 10)
STEPS = 50
epsilon = optax.join_schedules(  # none at first, then up to 0.1 and down again
    [optax.constant_schedule(0.0), optax.linear_schedule(0.0, 0.1, 20), optax.cosine_decay_schedule(0.1, 20)], [10, 30]
)
optimizer = optax.adam(1e-2)
compilations = []


@jax.jit
def step(weights, state, count):
    compilations.append(count)  # runs while tracing alone

    def loss(weights):
        return ms.loss(x @ weights, labels, label_smoothing=epsilon(count))

    value, gradient = jax.value_and_grad(loss)(weights)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(weights, updates), state, value


weights = jnp.zeros((20, 10))
state = optimizer.init(weights)
for count in range(STEPS):
    before = weights
    weights, state, value = step(weights, state, jnp.int32(count))
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 10), epsilon(count))
    expected = optax.softmax_cross_entropy(x @ before, smoothed).mean()
    assert jnp.allclose(value, expected, rtol=1e-5), (count, value, expected)

print(
    f"ε = {epsilon(0):.2f}, {epsilon(30):.2f}, {epsilon(49):.4f}; loss {value:.6f}; compiled {len(compilations)} time"
)
assert len(compilations) == 1
