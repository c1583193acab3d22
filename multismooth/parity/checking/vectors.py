"""Golden test vectors of a convention, for projects in other languages: inputs, loss, gradient and tolerances."""

import json

import numpy as np

from multismooth import __version__
from multismooth.parity.checking.cases import Domain, standard_cases
from multismooth.parity.checking.subjects import Reference
from multismooth.registry import resolve

TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}
NUMBERS_OF_CLASSES = (5, 2, 10)


def vectors(convention="torch", *, label_smoothing=0.1, ignore_index="recorded", reduction="mean", normalizer=None):
    """A dict of JSON values: problems with the loss and the gradient that a convention has for them.

    Logits are multiples of 1/16, which every format holds exactly. A loss of another language passes a case where its
    largest difference, divided by `scale`, is at most the tolerance of its format.

    >>> from multismooth import parity
    >>> found = parity.vectors("fairseq", label_smoothing=0.2)
    >>> len(found["cases"]) >= 9, sorted(found["cases"][0])[:4]
    (True, ['gradient', 'labels', 'logits', 'loss'])
    """
    convention = resolve(convention)
    ignored = convention.ignore_index if ignore_index == "recorded" else ignore_index
    if convention.denominator == "caller" and reduction == "mean" and normalizer is None:
        normalizer = 3.0
    settings = {
        "convention": convention,
        "label_smoothing": label_smoothing,
        "ignore_index": ignored,
        "reduction": reduction,
        "normalizer": normalizer,
    }
    reference, found = Reference(settings), []
    for k in NUMBERS_OF_CLASSES:
        domain = Domain(k, False, frozenset(c for c in convention.exclude if c < k), ignored)
        if k - len(domain.forbidden_labels | {ignored}) < 1:
            continue
        for case in standard_cases(domain):
            answer = reference.answer(case)
            found.append(
                {
                    "name": str(case),
                    "shape": list(case.logits.shape),
                    "logits": case.logits.ravel().tolist(),
                    "labels": case.labels.tolist(),
                    "loss": answer.loss.tolist(),
                    "gradient": answer.gradient.ravel().tolist(),
                    "scale": {"loss": _largest(answer.loss), "gradient": _largest(answer.gradient)},
                }
            )
    return {
        "format": "multismooth vectors 1",
        "made_by": f"multismooth {__version__}",
        "convention": json.loads(convention.to_json()),
        "settings": {name: value for name, value in settings.items() if name != "convention"},
        "order": "flat, C order: logits[n·K + k]; the gradient is that of the summed loss",
        "tolerances": TOLERANCES,
        "cases": found,
    }


def _largest(array):
    return float(max(np.abs(array).max(initial=0.0), 1e-3))
