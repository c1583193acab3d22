"""The losses beside smoothing: against the oracle in every backend, their laws, and where floating point is unkind."""

from functools import cache

import numpy as np
import oracle_alternatives
import pytest
from adapters import COMPILED, JAX, JIT, NUMPY, TORCH, suites
from oracle import floats
from problems import VARIATIONS, problem
from test_conformance import along, each, snapshot, warnings_deserved
from tolerance import assert_close

NAMES = ("focal_loss", "confidence_penalty", "margin_smoothing", "distillation_loss")
STRUCTURES = {NUMPY.name: 40, TORCH.name: 40, JAX.name: 3, COMPILED.name: 1, JIT.name: 2}


@cache
def solved(name, seed):
    """(problem, arrays of the call, its settings, loss, gradient) of a random call, once for all backends."""
    structure, rng = np.random.default_rng(seed // VARIATIONS), np.random.default_rng(seed)
    label = name == "focal_loss" and structure.random() < 0.5
    drawn = problem(seed, reckless=False, nonfinite=False, **({"targets": "hard"} if label else {}))
    convention = drawn.settings.get("convention")
    if label and getattr(convention, "ignore_scope", "all") == "nll_only":
        label = False
    gamma = float(rng.choice([0.3, 1.0, 2.0, 3.5]))
    given = {
        "focal_loss": {"gamma": gamma, "modulation": "label" if label else "class"},
        "confidence_penalty": {"beta": float(rng.uniform(0.05, 2))},
        "margin_smoothing": {"margin": float(rng.choice([0.0, 0.5, 10.0])), "strength": float(rng.uniform(0.05, 2))},
        "distillation_loss": {"temperature": float(rng.choice([0.5, 1.0, 4.0])), "hard_weight": 0.3},
    }[name]
    teacher = rng.normal(size=drawn.logits.shape) * 3 if name == "distillation_loss" else None
    loss, gradient = oracle_alternatives.evaluate(
        name, drawn.logits, drawn.targets, teacher=teacher, parameters=given, **drawn.settings
    )
    arrays = (drawn.logits, drawn.targets) if teacher is None else (drawn.logits, teacher, drawn.targets)
    return drawn, arrays, drawn.settings | given, floats(loss), floats(gradient)


class Alternatives:
    """What holds in every backend. A subclass names its `adapter`."""

    adapter = None

    @pytest.mark.parametrize("name", NAMES)
    def test_values_and_gradients(self, name):
        self.adapter.functions()
        seeds = range(0, STRUCTURES[self.adapter.name] * VARIATIONS, 3 if self.adapter is JAX else VARIATIONS)
        each(seeds, lambda seed: self.compare(name, seed), lambda seed: solved(name, seed)[0])

    def compare(self, name, seed):
        drawn, arrays, settings, expected, gradient = solved(name, seed)
        before = snapshot(*arrays, *settings.values())
        with warnings_deserved(drawn.quiet):
            if not self.adapter.autodiff_every:
                assert_close(self.adapter.call(name, *arrays, **settings), expected, "float64")
            else:
                cotangent = None
                if expected.ndim:
                    cotangent = np.random.default_rng(seed).normal(size=expected.shape)
                    gradient = along(drawn.settings.get("axis"), cotangent, gradient)
                value, (computed,) = self.adapter.value_and_grad(name, *arrays, cotangent=cotangent, **settings)
                assert_close(value, expected, "float64")
                assert_close(computed, gradient, "float64")
                assert not np.any(computed[gradient == 0]), "an entry that counts for nothing has a gradient"
        assert snapshot(*arrays, *settings.values()) == before, "an input was written to"


suites(globals(), lambda adapter: Alternatives)
for _name in [name for name, value in globals().items() if getattr(value, "adapter", None) is not None]:
    if globals()[_name].adapter.name not in STRUCTURES:
        del globals()[_name]
