"""Label smoothing in NumPy: fits a linear classifier with the loss and its gradient in closed form."""

import numpy as np

import multismooth.numpy as ms

rng = np.random.default_rng(0)
centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
labels = rng.integers(3, size=300)
points = centres[labels] + 0.5 * rng.normal(size=(300, 2))
hidden = np.column_stack([points, np.ones(300)])

classifier = np.zeros((3, 3))
losses = []
for _ in range(200):
    loss, (_, gradient, _) = ms.linear_loss_and_grad(hidden, classifier, labels, label_smoothing=0.1)
    classifier -= 0.5 * gradient
    losses.append(float(loss))

accuracy = np.mean(np.argmax(hidden @ classifier.T, axis=1) == labels)
q = ms.smooth_targets(np.array([0]), 3, label_smoothing=0.1)[0]
floor = -np.sum(q * np.log(q))
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} (it cannot go below {floor:.4f}), accuracy {accuracy:.3f}")

assert np.isclose(losses[0], np.log(3))  # the first classifier gives all classes the same probability
assert floor < losses[-1] < 0.5 * losses[0]
assert accuracy > 0.9
