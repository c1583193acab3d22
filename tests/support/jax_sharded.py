"""Run by test_jax_sharding: arrays split over eight CPU devices give the numbers of one.

`python jax_sharded.py PART…` checks parts and prints what it compared.
"""

import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax_sharded_calls import (
    BOTH,
    CALLS,
    CLASSES,
    MESHES,
    PARAMETERS,
    ROWS,
    ROWS_OF_A_PRIOR,
    SEEDS,
    K,
    compiled,
    drawn,
    expected_head,
    expected_loss,
    found_head,
    found_loss,
    head_of,
    mapped,
    of_elements,
    over_rows,
    same,
    specs_of,
    total,
)

import multismooth.jax as ms

# --- parts ----------------------------------------------------------------------------------------------------------


ANSWERS = ("total", "loss_and_grad", "terms")
IN_SHARD_MAP = ("total", "inside", "both", "terms")


def placed(mesh, places, calls, found, expected, head=False, compiled=compiled, alone=False):
    """Arrays placed on a mesh, under jit or outside of it: nothing else is said of it.

    alone: each call gives one of the answers, and the next call another one.
    """
    for p, place in enumerate(places):
        for k, call in enumerate(calls.values()):
            answers = (ANSWERS[(p + k) % 3],) if alone else ANSWERS
            function = compiled(partial(answered, found, answers, call[2]))
            for seed in range(SEEDS):
                letters, arrays, settings = drawn(call, seed)
                letters, arrays = head_of(letters, arrays, seed) if head else (letters, arrays)
                where = {name: NamedSharding(mesh, spec) for name, spec in specs_of(letters, place).items()}
                with jax.set_mesh(mesh):
                    result = function({name: jax.device_put(arrays[name], where[name]) for name in arrays})
                wanted = expected(arrays, settings)
                same(result, {answer: wanted[answer] for answer in answers})
        report(place, calls)


def answered(found, answers, settings, arrays):
    return {answer: found(answer, arrays, **settings) for answer in answers}


def report(place, calls):
    print(f"{len(calls) * SEEDS} problems agree with {place}", flush=True)


def loss_on_auto():
    calls = CALLS | {"rows of a prior": ROWS_OF_A_PRIOR}
    placed(MESHES["auto"], [BOTH, CLASSES, ROWS], calls, found_loss, expected_loss)


def loss_on_explicit():
    placed(MESHES["explicit"], [BOTH, CLASSES, ROWS], CALLS, found_loss, expected_loss)


HEADS = {name: call for name, call in CALLS.items() if "axis" not in call[2]}


def head_on_auto():
    placed(MESHES["auto"], [BOTH, CLASSES, ROWS], HEADS, found_head, expected_head, head=True)


def head_on_explicit():
    placed(MESHES["explicit"], [BOTH, CLASSES, ROWS], HEADS, found_head, expected_head, head=True)


def head_outside_of_jit():
    calls = {name: HEADS[name] for name in ("everything", "two denominators", "others")}
    as_it_is = {"compiled": lambda function: function, "alone": True}
    placed(MESHES["auto"], [BOTH], calls, found_head, expected_head, head=True, **as_it_is)


# --- inside shard_map, with the axes that split the classes named -----------------------------------------------------


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


def found_in_shard_map(place, settings, parameters, functions, mesh, answers):
    """These of what `expected_in_shard_map` holds, found inside `shard_map`, with gradients formed outside of it."""
    names = place["k"]
    loss, loss_and_grad, terms = (partial(f, axis_name=names) for f in functions)
    each = "n" if settings.get("reduction") == "none" else ""

    def found(letters, arrays):
        gradients = tuple(letters[name] for name in parameters)
        own = of_elements(letters)
        inside_of_mesh = partial(mapped, mesh=mesh)

        def summed(**arrays):
            of_mesh = inside_of_mesh(
                lambda arrays: over_rows(place, jnp.sum(loss(**arrays, **settings))), letters, place, ""
            )
            return of_mesh(arrays)

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
        found = {
            "total": lambda: total(summed, parameters)(arrays),
            "inside": lambda: inside_of_mesh(inside, letters, place, named)(arrays),
            "both": lambda: inside_of_mesh(
                both, letters, place, (each, named if len(parameters) > 1 else gradients[0])
            )(arrays),
            "terms": lambda: inside_of_mesh(
                lambda arrays: tuple(terms(**arrays, **of_elements(settings))), own, place, (elements,) * 5
            )(of_elements(arrays)),
        }
        return {answer: found[answer]() for answer in answers}

    return found


def expected_in_shard_map(letters, arrays, settings, head, more):
    """The answers of the NumPy backend. Gradients of `more` classes, which are padding, are 0."""
    expected = (expected_head if head else expected_loss)(arrays, settings)
    value, gradients = expected["total"]
    gradients = {name: padded_classes(letters[name], array, more) for name, array in gradients.items()}
    both = expected["loss_and_grad"][0], gradients if head else gradients["logits"]
    return expected | {"total": (value, gradients), "inside": gradients, "both": both}


def padded_classes(letters, array, more, value=0):
    width = [(0, more if letter == "k" else 0) for letter in letters]
    return np.pad(array, width, constant_values=value) if more and letters else array


def padded(letters, arrays, classes, more):
    """The call with `more` classes that do not exist, and that hold what would be noticed."""
    if more and "class_mask" not in arrays:
        letters, arrays = letters | {"class_mask": "k"}, arrays | {"class_mask": np.ones(classes, bool)}
    filling = {"logits": 9.0, "classifier": 9.0, "bias": 9.0, "weight": 2.0}
    return letters, {n: padded_classes(letters[n], array, more, filling.get(n, 0)) for n, array in arrays.items()}


OF_LOGITS = ["logits"], (ms.loss, ms.loss_and_grad, ms.terms)
OF_A_HEAD = (
    list(PARAMETERS),
    tuple(partial(f, chunk_rows=4) for f in (ms.linear_loss, ms.linear_loss_and_grad, ms.linear_terms)),
)


def in_shard_map(place, calls, head, mesh=MESHES["auto"], classes=K, alone=None):
    """`classes`: how many exist. The others are padding, so that all devices have parts of equal size.

    alone: the answer of the first call; each call gives one, and the next call another. None: each gives all.
    """
    of, parts = OF_A_HEAD if head else OF_LOGITS, parts_of(mesh, place["k"])
    for k, call in enumerate(calls.values()):
        function, answers = None, IN_SHARD_MAP if alone is None else (IN_SHARD_MAP[(alone + k) % 4],)
        for seed in range(SEEDS):
            letters, arrays, settings = drawn(call, seed, classes)
            if head:
                letters, arrays = head_of(letters, arrays, seed)
            expected = expected_in_shard_map(letters, arrays, settings, head, -classes % parts)
            letters, arrays = padded(letters, arrays, classes, -classes % parts)
            if function is None:
                function = compiled(partial(found_in_shard_map(place, settings, *of, mesh, answers), letters))
            same(function(arrays), {answer: expected[answer] for answer in answers})
    report(place, calls)


def parts_of(mesh, names):
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def in_places_and_worlds(calls, head):
    """Classes and rows on a mesh of eight devices, and classes on 1, 2, 3, 4 and 8.

    13 classes are in parts of unequal size; on 8 devices, one part is empty.
    """
    in_shard_map(BOTH, split_calls(calls, BOTH), head)
    in_shard_map(CLASSES, calls, head, classes=13)
    for devices in (1, 2, 3, 4):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("model",)) if devices < 4 else MESHES["auto"]
        some = {name: call for k, (name, call) in enumerate(calls.items()) if (devices + k) % (3 if head else 2) == 0}
        in_shard_map({"k": "model"}, some, head, mesh, classes=13, alone=devices)


def loss_in_shard_map():
    in_places_and_worlds(CALLS, head=False)


def head_in_shard_map():
    in_places_and_worlds(HEADS, head=True)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[part]()
