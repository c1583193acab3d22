"""Times the calibration error, the temperature and a stream against plain NumPy: python benchmarks/calibration.py

Both take N = 1e6 rows of K = 10 classes. Plain NumPy is what people write: maximum, argmax, three bincounts. It checks
nothing. Each number is the least of several runs, taken in turn, so that a busy machine slows both.
"""

import argparse
import time

import numpy as np

from multismooth import calibration

BINS = 15


def plain_probabilities(probs, labels):
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    np.bincount(index, minlength=BINS)  # the count, which the error itself does not need
    gaps = np.bincount(index, right, BINS) - np.bincount(index, confidence, BINS)
    return np.abs(gaps).sum() / len(labels)


def plain_logits(logits, labels):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return plain_probabilities(exponentials / exponentials.sum(axis=1, keepdims=True), labels)


def times(functions, repeats):
    """The least seconds of each function."""
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def problem(rows, classes, dtype):
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(rows, classes)).astype(dtype)
    labels = np.where(random.random(rows) < 0.6, logits.argmax(axis=1), random.integers(0, classes, rows))
    exponentials = np.exp(logits)
    return logits, exponentials / exponentials.sum(axis=1, keepdims=True), labels


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    error = calibration.expected_calibration_error
    ratios = {}
    for dtype in ("float32", "float64"):
        logits, probs, labels = problem(options.rows, options.classes, dtype)
        for name, plain, ours in (
            (
                "probs",
                lambda p=probs, y=labels: plain_probabilities(p, y),
                lambda p=probs, y=labels: error(probs=p, targets=y),
            ),
            ("logits", lambda z=logits, y=labels: plain_logits(z, y), lambda z=logits, y=labels: error(z, y)),
        ):
            found = times({"plain": plain, "ours": ours}, options.repeats)
            ratios[name, dtype] = found["ours"] / found["plain"]
            print(
                f"ECE of {name}, {dtype}: {1e3 * found['ours']:.1f} ms, plain NumPy {1e3 * found['plain']:.1f} ms, "
                f"{ratios[name, dtype]:.2f} ×"
            )
    once = times({"temperature": lambda: calibration.fit_temperature(logits, labels)}, 1)["temperature"]
    print(f"temperature, float64: {1e3 * once:.0f} ms")
    return ratios


if __name__ == "__main__":
    main()
