"""Calls whose arrays are split over eight CPU devices, and the answers of `spec` on NumPy, which knows no devices.

The numbers are float64. `jax_sharded` and `jax_sharded_cases` use them in a process that has eight devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tolerance import assert_close

import multismooth
import multismooth.jax as ms
import multismooth.numpy as reference

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
N, K, T, D = 8, 16, 2, 3
ABSENT = (3, 10)
EXISTS = ~np.isin(np.arange(K), ABSENT)
SEEDS = 5

# Every array has a letter for each axis: n and t elements, k classes, d features. It is drawn for a number of classes.
OTHERS = {
    "weight": ("k", lambda r, k: r.uniform(0.5, 2, k)),
    "prior": ("k", lambda r, k: r.dirichlet(np.ones(k))),
    "class_mask": ("k", lambda r, k: EXISTS[:k]),
    "mask of each": ("nk", lambda r, k: EXISTS[:k] | (r.uniform(size=(N, 1)) < 0.5)),
    "sample_weight": ("n", lambda r, k: r.uniform(0, 2, N) * (r.uniform(size=N) < 0.8)),
    "label_smoothing": ("n", lambda r, k: r.uniform(0.05, 0.4, N)),
    "logit_softcap": ("", lambda r, k: np.array(r.uniform(2, 5))),
    "z_loss": ("", lambda r, k: np.array(r.uniform(0.01, 0.2))),
    "normalizer": ("", lambda r, k: np.array(r.uniform(3, 9))),
    "rows of a prior": ("jk", lambda r, k: r.dirichlet(np.ones(k), k)),
}
BOTH, CLASSES, ROWS = {"n": "data", "k": "model"}, {"k": ("data", "model")}, {"n": ("data", "model")}
EXCLUDES = multismooth.Convention(spread="others", exclude=ABSENT)
# name: (whether targets are soft, the other arguments, the settings)
CALLS = {
    "everything": (False, "weight prior class_mask sample_weight label_smoothing z_loss", {}),
    "others": (False, "sample_weight label_smoothing logit_softcap", {"convention": "others", "reduction": "none"}),
    "two denominators": (False, "weight z_loss", {"convention": "fastai"}),
    "divergence": (False, "prior z_loss", {"convention": "torch-kl-div", "ignore_index": -100, "reduction": "sum"}),
    "soft": (True, "weight sample_weight logit_softcap", {}),
    "weight of the largest": (True, "weight prior normalizer", {"convention": "paddle"}),
    "soft divergence": (True, "class_mask label_smoothing", {"convention": "flax-examples", "reduction": "sum"}),
    "mask of each": (False, "mask_of_each weight", {"convention": "optax-one-hot", "ignore_index": -100}),
    "excluded": (False, "weight", {"convention": EXCLUDES, "axis": 1}),
}
ROWS_OF_A_PRIOR = (False, "rows_of_a_prior", {})
MESHES = {
    "auto": Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model")),
    "explicit": jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2),
}


def drawn(call, seed, classes=K):
    """({name: letters}, {name: array}, settings) of a call; soft rows have no mass on absent classes."""
    r, (soft, others, settings) = np.random.default_rng(seed), call
    images = settings.get("axis") == 1
    letters, arrays = {"logits": "nkt" if images else "nk"}, {}
    size = dict(zip("nktd", (N, classes, T, D), strict=True))
    arrays["logits"] = 3 * r.normal(size=[size[x] for x in letters["logits"]])
    if soft:
        letters["targets"], rows = "nk", r.dirichlet(np.ones(classes), N) * EXISTS[:classes]
        arrays["targets"] = rows / rows.sum(-1, keepdims=True)
    else:
        letters["targets"] = "nt" if images else "n"
        labels = r.choice(np.flatnonzero(EXISTS[:classes]), size=[size[x] for x in letters["targets"]])
        arrays["targets"] = np.where(r.uniform(size=labels.shape) < 0.2, -100, labels)
    for word in others.split():
        name = {"mask_of_each": "class_mask", "rows_of_a_prior": "prior"}.get(word, word)
        letters[name], draw = OTHERS[word.replace("_", " ") if name != word else word]
        arrays[name] = draw(r, classes)
    return letters, arrays, settings


def head_of(letters, arrays, seed):
    """The same call of a linear head: features, classifier and bias in place of the logits."""
    r, classes = np.random.default_rng(seed), arrays["logits"].shape[-1]
    own = {"hidden": ("nd", (N, D)), "classifier": ("kd", (classes, D)), "bias": ("k", (classes,))}
    letters = {name: word for name, (word, _) in own.items()} | {n: w for n, w in letters.items() if n != "logits"}
    values = {name: r.normal(size=shape) for name, (_, shape) in own.items()}
    return letters, values | {name: value for name, value in arrays.items() if name != "logits"}


def specs_of(letters, place):
    """A PartitionSpec for every array: `place` says which mesh axes split which letter."""
    return {name: P(*[place.get(x) for x in word]) for name, word in letters.items()}


def compiled(function):
    return jax.jit(function, compiler_options=QUICKLY)


def total(function, parameters):
    """(Σ of a function's result, its gradient with respect to these arguments) of a dictionary of arguments."""

    def of(own, others):
        return jnp.sum(function(**own, **others))

    def both(arrays):
        own = {name: arrays[name] for name in parameters}
        return jax.value_and_grad(of)(own, {name: arrays[name] for name in arrays if name not in own})

    return both


@multismooth.implementation("spec")  # which needs no machine code: each process would load it
def expected_loss(arrays, settings):
    loss, gradient = reference.loss_and_grad(**arrays, **settings)
    terms = reference.terms(**of_elements(arrays), **of_elements(settings))
    return {"total": (np.sum(loss), {"logits": gradient}), "loss_and_grad": (loss, gradient), "terms": tuple(terms)}


def found_loss(answer, arrays, **settings):
    if answer == "terms":
        return tuple(ms.terms(**of_elements(arrays), **of_elements(settings)))
    if answer == "loss_and_grad":
        return ms.loss_and_grad(**arrays, **settings)
    return total(partial(ms.loss, **settings), ["logits"])(arrays)


def of_elements(arguments):
    """Those that `terms` takes too."""
    return {name: value for name, value in arguments.items() if name not in ("reduction", "normalizer")}


PARAMETERS = ("hidden", "classifier", "bias")


@multismooth.implementation("spec")
def expected_head(arrays, settings):
    loss, gradients = reference.linear_loss_and_grad(**arrays, **settings)
    gradients = dict(zip(PARAMETERS, gradients, strict=True))
    terms = reference.linear_terms(**of_elements(arrays), **of_elements(settings))
    return {"total": (np.sum(loss), gradients), "loss_and_grad": (loss, gradients), "terms": tuple(terms)}


def found_head(answer, arrays, **settings):
    if answer == "terms":
        return tuple(ms.linear_terms(**of_elements(arrays), **of_elements(settings), chunk_rows=4))
    if answer == "loss_and_grad":
        loss, gradients = ms.linear_loss_and_grad(**arrays, **settings, chunk_rows=4)
        return loss, dict(zip(PARAMETERS, gradients, strict=True))
    return total(partial(ms.linear_loss, **settings, chunk_rows=4), PARAMETERS)(arrays)


def same(found, expected):
    jax.tree.map(lambda x, y: assert_close(*(np.asarray(value, float) for value in (x, y))), found, expected)


def mapped(function, letters, place, out, mesh=MESHES["auto"]):
    """The function of a dictionary of arguments inside `shard_map`. `out`: letters of the axes of its results."""
    where = jax.tree.map(lambda word: P(*[place.get(x) for x in word]), out)
    return jax.shard_map(function, mesh=mesh, in_specs=(specs_inside(letters, place),), out_specs=where)


def specs_inside(letters, place):
    """As `specs_of`; inside `shard_map` (K,) arguments are those of all classes."""
    return specs_of(letters, place) | {
        name: P() for name in ("weight", "prior", "class_mask") if letters.get(name) == "k"
    }


def over_rows(place, value):
    return jax.lax.psum(value, place["n"]) if "n" in place else value
