"""Run by test_jax_sharding on eight CPU devices: arrays split over a mesh of them give the numbers of one device.

`python sharded.py PART` checks one part and prints what it compared. The numbers are those of the NumPy backend, which
knows no devices, in float64.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerance import assert_close

import multismooth
import multismooth.jax as ms
import multismooth.numpy as reference

jax.config.update("jax_enable_x64", True)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
N, K, T, D = 8, 16, 2, 3
ABSENT = (3, 10)
EXISTS = ~np.isin(np.arange(K), ABSENT)
SEEDS = 5

# Every array has a letter for each axis: n and t elements, k classes, d features.
OTHERS = {
    "weight": ("k", lambda r: r.uniform(0.5, 2, K)),
    "prior": ("k", lambda r: r.dirichlet(np.ones(K))),
    "class_mask": ("k", lambda r: EXISTS),
    "mask of each": ("nk", lambda r: EXISTS | (r.uniform(size=(N, 1)) < 0.5)),
    "sample_weight": ("n", lambda r: r.uniform(0, 2, N) * (r.uniform(size=N) < 0.8)),
    "label_smoothing": ("n", lambda r: r.uniform(0.05, 0.4, N)),
    "z_loss": ("", lambda r: np.array(r.uniform(0.01, 0.2))),
    "normalizer": ("", lambda r: np.array(r.uniform(3, 9))),
    "rows of a prior": ("jk", lambda r: r.dirichlet(np.ones(K), K)),
}
EXCLUDES = multismooth.Convention(spread="others", exclude=ABSENT)
# name: (whether targets are soft, the other arguments, the settings)
CALLS = {
    "everything": (False, "weight prior class_mask sample_weight label_smoothing z_loss", {}),
    "others": (False, "sample_weight label_smoothing", {"convention": "others", "reduction": "none"}),
    "two denominators": (False, "weight z_loss", {"convention": "fastai"}),
    "divergence": (False, "prior z_loss", {"convention": "torch-kl-div", "ignore_index": -100, "reduction": "sum"}),
    "soft": (True, "weight sample_weight", {}),
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


def drawn(call, seed):
    """({name: letters}, {name: array}, settings) of a call; soft rows have no mass on absent classes."""
    r, (soft, others, settings) = np.random.default_rng(seed), call
    images = settings.get("axis") == 1
    letters, arrays = {"logits": "nkt" if images else "nk"}, {}
    size = dict(zip("nktd", (N, K, T, D), strict=True))
    arrays["logits"] = 3 * r.normal(size=[size[x] for x in letters["logits"]])
    if soft:
        letters["targets"], rows = "nk", r.dirichlet(np.ones(K), N) * EXISTS
        arrays["targets"] = rows / rows.sum(-1, keepdims=True)
    else:
        letters["targets"] = "nt" if images else "n"
        labels = r.choice(np.flatnonzero(EXISTS), size=[size[x] for x in letters["targets"]])
        arrays["targets"] = np.where(r.uniform(size=labels.shape) < 0.2, -100, labels)
    for word in others.split():
        name = {"mask_of_each": "class_mask", "rows_of_a_prior": "prior"}.get(word, word)
        letters[name], draw = OTHERS[word.replace("_", " ") if name != word else word]
        arrays[name] = draw(r)
    return letters, arrays, settings


def head_of(letters, arrays, seed):
    """The same call of a linear head: features, classifier and bias in place of the logits."""
    r = np.random.default_rng(seed)
    own = {"hidden": ("nd", (N, D)), "classifier": ("kd", (K, D)), "bias": ("k", (K,))}
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


def expected_loss(arrays, settings):
    loss, gradient = reference.loss_and_grad(**arrays, **settings)
    others = {name: value for name, value in arrays.items() if name != "normalizer"}
    terms = reference.terms(**others, **{name: value for name, value in settings.items() if name != "reduction"})
    return {"total": (np.sum(loss), {"logits": gradient}), "loss_and_grad": (loss, gradient), "terms": tuple(terms)}


def found_loss(arrays, **settings):
    others = {name: value for name, value in arrays.items() if name != "normalizer"}
    terms = ms.terms(**others, **{name: value for name, value in settings.items() if name != "reduction"})
    return {
        "total": total(partial(ms.loss, **settings), ["logits"])(arrays),
        "loss_and_grad": ms.loss_and_grad(**arrays, **settings),
        "terms": tuple(terms),
    }


def expected_head(arrays, settings):
    loss, gradients = reference.linear_loss_and_grad(**arrays, **settings)
    gradients = dict(zip(("hidden", "classifier", "bias"), gradients, strict=True))
    return {"total": (np.sum(loss), gradients), "linear_loss_and_grad": (loss, gradients)}


def found_head(arrays, **settings):
    loss, gradients = ms.linear_loss_and_grad(**arrays, **settings, chunk_rows=4)
    names = ("hidden", "classifier", "bias")
    return {
        "total": total(partial(ms.linear_loss, **settings, chunk_rows=4), names)(arrays),
        "linear_loss_and_grad": (loss, dict(zip(names, gradients, strict=True))),
    }


def same(found, expected):
    jax.tree.map(lambda x, y: assert_close(*(np.asarray(value, float) for value in (x, y))), found, expected)


# --- parts ----------------------------------------------------------------------------------------------------------


def placed(mesh, places, calls, found, expected, head=False):
    """Arrays placed on a mesh, under jit: nothing else is said of it."""
    for place in places:
        for name, call in calls.items():
            function = compiled(partial(found, **call[2]))
            for seed in range(SEEDS):
                letters, arrays, settings = drawn(call, seed)
                letters, arrays = head_of(letters, arrays, seed) if head else (letters, arrays)
                where = {name: NamedSharding(mesh, spec) for name, spec in specs_of(letters, place).items()}
                with jax.set_mesh(mesh):
                    result = function({name: jax.device_put(arrays[name], where[name]) for name in arrays})
                same(result, expected(arrays, settings))
        report(place, calls)


def report(place, calls):
    print(f"{len(calls) * SEEDS} problems agree with {place}", flush=True)


BOTH, CLASSES, ROWS = {"n": "data", "k": "model"}, {"k": ("data", "model")}, {"n": ("data", "model")}


def loss_on_auto():
    calls = CALLS | {"rows of a prior": ROWS_OF_A_PRIOR}
    placed(MESHES["auto"], [BOTH, CLASSES, ROWS], calls, found_loss, expected_loss)


def loss_on_explicit():
    placed(MESHES["explicit"], [BOTH, CLASSES, ROWS], CALLS, found_loss, expected_loss)


HEADS = {name: call for name, call in CALLS.items() if "axis" not in call[2]}


def head_on_auto():
    placed(MESHES["auto"], [BOTH, CLASSES, ROWS], HEADS, found_head, expected_head, head=True)


def head_on_explicit():
    calls = {name: HEADS[name] for name in ("everything", "others", "soft", "mask of each")}
    placed(MESHES["explicit"], [BOTH], calls, found_head, expected_head, head=True)


# --- inside shard_map, with the axes that split the classes named -----------------------------------------------------


def names_of(place):
    return place["k"]


def mapped(function, letters, place, out):
    """The function of a dictionary of arguments inside `shard_map`. `out`: letters of the axes of its results."""
    where = jax.tree.map(lambda word: P(*[place.get(x) for x in word]), out)
    return jax.shard_map(function, mesh=MESHES["auto"], in_specs=(specs_inside(letters, place),), out_specs=where)


def specs_inside(letters, place):
    """As `specs_of`; inside `shard_map` (K,) arguments are those of all classes."""
    return specs_of(letters, place) | {
        name: P() for name in ("weight", "prior", "class_mask") if letters.get(name) == "k"
    }


def over_rows(place, value):
    return jax.lax.psum(value, place["n"]) if "n" in place else value


def split_calls(calls, place):
    """The calls, as sums where rows are split too: a mean inside `shard_map` is that of the rows here."""
    if "n" not in place:
        return calls
    rows = {name: call for name, call in calls.items() if "normalizer" not in call[1]}
    return {
        name: (*call[:2], call[2] | {"reduction": "sum"})
        for name, call in rows.items()
        if "fastai" not in call[2].values()
    }


def found_in_shard_map(place, settings, parameters, loss, loss_and_grad, terms):
    """What `expected_loss` and `expected_head` hold, found inside `shard_map`, with gradients formed outside of it."""
    names = names_of(place)
    loss, loss_and_grad, terms = (partial(f, axis_name=names) for f in (loss, loss_and_grad, terms))
    each = "n" if settings.get("reduction") == "none" else ""

    def found(letters, arrays):
        gradients = tuple(letters[name] for name in parameters)
        own = {name: letters[name] for name in letters if name != "normalizer"}
        without = {name: value for name, value in settings.items() if name != "reduction"}

        def summed(**arrays):
            return mapped(lambda arrays: over_rows(place, jnp.sum(loss(**arrays, **settings))), letters, place, "")(
                arrays
            )

        def both(arrays):
            value, gradient = loss_and_grad(**arrays, **settings)
            gradient = dict(zip(parameters, gradient, strict=True)) if len(parameters) > 1 else gradient
            return value if each else over_rows(place, value), gradient

        def inside(arrays):
            def of(own, others):
                return jnp.sum(loss(**own, **others, **settings))

            own = {name: arrays[name] for name in parameters}
            return jax.grad(of)(own, {name: arrays[name] for name in arrays if name not in own})

        named = dict(zip(parameters, gradients, strict=True))
        elements = own["targets"].replace("k", "")
        return {
            "total": total(summed, parameters)(arrays),
            "inside": mapped(inside, letters, place, named)(arrays),
            "both": mapped(both, letters, place, (each, named if len(parameters) > 1 else gradients[0]))(arrays),
            "terms": mapped(lambda arrays: tuple(terms(**arrays, **without)), own, place, (elements,) * 5)(
                {name: arrays[name] for name in own}
            ),
        }

    return found


def in_shard_map(places, calls, head):
    for place in places:
        of_place = split_calls(calls, place)
        for name, call in of_place.items():
            function = None
            for seed in range(SEEDS):
                letters, arrays, settings = drawn(call, seed)
                if head:
                    letters, arrays = head_of(letters, arrays, seed)
                    wanted, both = expected_head(arrays, settings), "linear_loss_and_grad"
                    of = (
                        ["hidden", "classifier", "bias"],
                        *(partial(f, chunk_rows=4) for f in (ms.linear_loss, ms.linear_loss_and_grad, ms.linear_terms)),
                    )
                else:
                    wanted, both = expected_loss(arrays, settings), "loss_and_grad"
                    of = ["logits"], ms.loss, ms.loss_and_grad, ms.terms
                if function is None:
                    function = compiled(partial(found_in_shard_map(place, settings, *of), letters))
                wanted |= {"inside": wanted["total"][1], "both": wanted.pop(both)}
                if head:
                    others = {name: value for name, value in arrays.items() if name != "normalizer"}
                    without = {name: value for name, value in settings.items() if name != "reduction"}
                    wanted["terms"] = tuple(reference.linear_terms(**others, **without))
                same(function(arrays), wanted)
        report(place, of_place)


def loss_in_shard_map():
    in_shard_map([BOTH, CLASSES, {"k": "model"}], CALLS, head=False)


def head_in_shard_map():
    in_shard_map([BOTH, CLASSES], HEADS, head=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
