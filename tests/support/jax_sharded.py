"""Run by test_jax_sharding: arrays split over eight CPU devices give the numbers of one.

`python jax_sharded.py PART…` checks parts and prints what it compared.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax_sharded_calls import (
    BOTH,
    CALLS,
    CLASSES,
    MESHES,
    ROWS,
    ROWS_OF_A_PRIOR,
    SEEDS,
    compiled,
    drawn,
    expected_head,
    expected_loss,
    found_head,
    found_loss,
    head_of,
    mapped,
    over_rows,
    same,
    specs_of,
    total,
)

import multismooth.jax as ms
import multismooth.numpy as reference

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
    names = place["k"]
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
    for part in sys.argv[1:]:
        globals()[part]()
