"""The same as image_classification_torch.py in Flax: ε is traced, so all of its values share one compilation."""

import flax
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import multismooth.jax as ms

pixels, digits = load_digits(return_X_y=True)
order = jax.random.permutation(jax.random.key(0), len(digits))
images, labels = jnp.asarray(pixels / 16, jnp.float32)[order], jnp.asarray(digits)[order]
train, validation, test = slice(0, 800), slice(800, 1200), slice(1200, None)


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(64, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


@nnx.jit
def step(model, optimizer, images, labels, epsilon):
    loss = nnx.grad(lambda model: ms.loss(model(images), labels, label_smoothing=epsilon))
    optimizer.update(model, loss(model))


def trained(epsilon):
    model = Classifier(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(3e-3, weight_decay=0.05), wrt=nnx.Param)
    for epoch in range(20):
        for batch in jax.random.permutation(jax.random.key(epoch), 768).reshape(12, 64):
            step(model, optimizer, images[batch], labels[batch], jnp.float32(epsilon))
    model.eval()
    return model


def measured(model, part):
    """(accuracy, the loss without smoothing)."""
    logits = model(images[part])
    return float((logits.argmax(1) == labels[part]).mean()), float(ms.terms(logits, labels[part]).nll.mean())


models = {epsilon: trained(epsilon) for epsilon in (0.0, 0.05, 0.1, 0.2)}
for epsilon, model in models.items():
    print("ε = {}: validation accuracy {:.3f}, nll {:.3f}".format(epsilon, *measured(model, validation)))
best = max(models, key=lambda epsilon: measured(models[epsilon], validation)[0])
accuracy, nll = measured(models[best], test)
print(f"Flax {flax.__version__}, chosen ε = {best}: test accuracy {accuracy:.3f}, nll {nll:.3f}")

assert accuracy > 0.93
