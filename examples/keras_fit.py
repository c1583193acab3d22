"""Keras: `compile(loss=multismooth.keras.Loss(...))` trains as Keras' own loss does, and takes integer labels.

Run it with KERAS_BACKEND=jax or KERAS_BACKEND=torch.
"""

import os
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from multismooth.keras import Loss

rng = np.random.default_rng(0)
x, labels = rng.normal(size=(256, 20)).astype("float32"), rng.integers(0, 10, 256)
one_hot = keras.utils.to_categorical(labels, 10)


def trained(loss, y):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]  # logits: no softmax at the end
    model = keras.Sequential([keras.layers.Input((20,)), *layers])
    model.compile("adam", loss=loss, metrics=["accuracy"])
    history = model.fit(x, y, epochs=3, batch_size=32, shuffle=False, verbose=0)
    return model, np.array(history.history["loss"])


own, ours = trained(Loss(label_smoothing=0.1), labels)
_, theirs = trained(keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), one_hot)
_, others = trained(Loss(label_smoothing=0.1, convention="others"), labels)  # fairseq's meaning of ε
print(f"loss after 3 epochs: multismooth {ours[-1]:.6f}, Keras {theirs[-1]:.6f}, ε spread as fairseq {others[-1]:.6f}")

with tempfile.TemporaryDirectory() as folder:
    own.save(f"{folder}/model.keras")
    loaded = keras.models.load_model(f"{folder}/model.keras")

assert np.allclose(ours, theirs, rtol=1e-6)
assert not np.allclose(ours, others, rtol=1e-5)
assert loaded.loss.get_config() == own.loss.get_config()
assert loaded.evaluate(x, labels, verbose=0) == own.evaluate(x, labels, verbose=0)
