"""Run by test_jax_sharding on eight CPU devices: derivatives, refusals and single cases of split arrays.

`python jax_sharded_cases.py PART…` checks parts and prints what it compared.
"""

import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax_sharded_calls import (
    BOTH,
    CALLS,
    EXISTS,
    MESHES,
    PARAMETERS,
    D,
    K,
    N,
    compiled,
    drawn,
    head_of,
    mapped,
    over_rows,
    same,
    total,
)
from tolerance import assert_close

import multismooth.jax as ms
import multismooth.numpy as reference
from multismooth.jax import backend


def derivatives():
    """Second derivatives, and first ones with respect to every other argument, are those of one device."""
    for name in ("everything", "soft"):
        letters, arrays, _ = drawn(CALLS[name], seed=0)
        arrays = {name: jnp.asarray(value) for name, value in arrays.items()}
        one_device = compiled(partial(first_and_second, partial(ms.loss, reduction="sum")))(arrays)
        same(compiled(partial(first_and_second, partial(summed_by_split, letters)))(arrays), one_device)
    print("derivatives agree", flush=True)


def strict():
    """No rank is promoted and no dtype."""
    for call in CALLS.values():
        letters, arrays, settings = drawn(call, seed=0)
        arrays = {name: jnp.asarray(value) for name, value in arrays.items()}
        split = {"k": "model"}

        def both(arrays, settings=settings):
            settings = {name: value for name, value in settings.items() if name != "reduction"}
            own = {name: value for name, value in arrays.items() if name != "normalizer"}
            return ms.loss_and_grad(**arrays, **settings, axis_name="model")[0], ms.terms(
                **own, **settings, axis_name="model"
            )

        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(mapped(both, letters, split, ("", letters["targets"].replace("k", ""))), arrays)
    print("nothing is promoted", flush=True)


def summed_by_split(letters, **arrays):
    loss = partial(ms.loss, reduction="sum", axis_name="model")
    return mapped(lambda arrays: over_rows(BOTH, loss(**arrays)), letters, BOTH, "")(arrays)


def first_and_second(loss, arrays):
    """(the loss and its gradient with respect to every floating argument, its Hessian times a vector of logits)."""
    floating = [name for name in arrays if jnp.issubdtype(arrays[name].dtype, jnp.floating)]

    def gradient(logits):
        return jax.grad(lambda logits: loss(**arrays | {"logits": logits}))(logits)

    direction = jnp.cos(jnp.arange(N * K, dtype=float)).reshape(N, K)
    return total(loss, floating)(arrays), jax.jvp(gradient, (arrays["logits"],), (direction,))[1]


# --- what is refused, or NaN -----------------------------------------------------------------------------------------


def refusals():
    mesh, z, y = MESHES["auto"], jnp.ones((N, K)), jnp.zeros(N, int)
    whole, split, rows = P(), P(None, "model"), P("data")

    def inside(specs=(split, whole), labels=y, check_vma=True, axis_name="model", function=ms.loss, **settings):
        def call(z, y):
            return function(z, y, axis_name=axis_name, **settings)

        return jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=check_vma)(z, labels)

    def head(z, y, **settings):
        return ms.linear_loss(jnp.ones((N, D)), jnp.ones((K, D)), y, **settings)

    quarters = z.reshape(4, N, K // 4)
    calls = {
        "`axis_name`: expected axes of a shard_map with check_vma=True": [
            lambda: inside(check_vma=False),
            lambda: jax.pmap(lambda z: ms.loss(z, y, axis_name="i"), axis_name="i", devices=jax.devices()[:4])(
                quarters
            ),
            lambda: jax.vmap(lambda z: ms.loss(z, y, axis_name="i"), axis_name="i")(quarters),
        ],
        "`axis_name`: expected axes of the surrounding shard_map": [
            lambda: ms.loss(z, y, axis_name="model"),
            lambda: inside(axis_name="modle"),
        ],
        "`axis_name`: expected the name of a mesh axis": [lambda: inside(axis_name=1), lambda: inside(axis_name=())],
        "`logits`: expected a part of the classes": [lambda: inside((rows, rows)), lambda: inside((whole, whole))],
        "`classifier`: expected a part of the classes": [lambda: inside(function=head)],
        "`targets`: expected the same on all devices": [
            lambda: inside((split, P("model")), labels=jnp.zeros(4 * N, int))
        ],
        "`prior`: expected shape (K,) where classes are split": [lambda: inside(prior=jnp.full((K, K), 1 / K))],
        "`weight`: expected shape (16,)": [lambda: inside(weight=jnp.ones(K // 4))],
    }
    for text, wrong in calls.items():
        for call in wrong:
            with pytest.raises(ValueError, match=re.escape(text)):
                call()
    print(sum(map(len, calls.values())), "calls are refused", flush=True)


def unseen_labels():
    """A label outside [0, K), whose value no check can read, is NaN on all devices."""
    z, labels = jnp.ones((N, K)), jnp.array([0, K, -1, -100, 3, 2 * K, 1, 2])
    call = partial(ms.loss, axis_name="model", reduction="none")
    split = jax.shard_map(call, mesh=MESHES["auto"], in_specs=(P(None, "model"), P()), out_specs=P())
    found = np.isnan(compiled(split)(z, labels))
    assert found.tolist() == [False, True, True, False, False, True, False, False], found
    print("invalid labels are NaN", flush=True)


def common_offset():
    """float32 logits with a common offset of 100,000, which leaves them steps of 1/128."""
    _, arrays, _ = drawn(CALLS["others"], 0)
    z = (np.round(arrays["logits"] * 128) / 128 + 1e5).astype(np.float32)
    expected = reference.loss_and_grad(z.astype(np.float64), arrays["targets"])
    call = partial(ms.loss_and_grad, axis_name="model")
    split = P(None, "model")
    inside = jax.shard_map(call, mesh=MESHES["auto"], in_specs=(split, P()), out_specs=(P(), split))
    found = [compiled(inside)(z, arrays["targets"])]
    for mesh in MESHES.values():
        own = NamedSharding(mesh, P("data", "model")), NamedSharding(mesh, P("data"))
        with jax.set_mesh(mesh):
            found.append(compiled(ms.loss_and_grad)(*map(jax.device_put, (z, arrays["targets"]), own)))
    for result in found:
        for value, exact in zip(result, expected, strict=True):
            assert_close(np.asarray(value), exact, "float32", classes=K)
    print("a common offset costs no digits", flush=True)


def eager():
    """An eager call reads one row of one device's logits, and none of them where no device has a whole row."""
    sizes, readable = [], backend.readable
    backend.readable = lambda array: sizes.append(array.size) or readable(array)
    mesh, z, y = MESHES["auto"], jnp.ones((N, K)).at[:, 0].set(3.0), jnp.arange(N)
    soft = jnp.full((N, K), 1 / K)
    for spec, read in ((P("data"), {K, N}), (P("data", "model"), {N}), (P(None, "model"), {N})):
        logits = jax.device_put(z, NamedSharding(mesh, spec)).block_until_ready()
        labels = jax.device_put(y, NamedSharding(mesh, P(*spec[:1])))
        rows = jax.device_put(soft, NamedSharding(mesh, spec))
        sizes.clear()
        ms.loss(logits, labels)
        assert set(sizes) == read, (spec, sizes)
        sizes.clear()
        ms.loss(logits, rows)
        assert set(sizes) <= {K}, (spec, sizes)
    print("eager calls read no more than a row", flush=True)


def elements_on_two_axes():
    """Features that are split on both axes of elements, with arguments that broadcast to these or to the classes."""
    r, sizes = np.random.default_rng(0), (4, D, 8)
    hidden, classifier = r.normal(size=sizes), r.normal(size=(K, D))
    labels = r.choice(np.flatnonzero(EXISTS), size=(4, 8))
    others = {
        "label_smoothing": r.uniform(0.1, 0.3, (4, 1)),
        "sample_weight": r.uniform(0, 2, 8),
        "class_mask": EXISTS[None, :, None] | (r.uniform(size=(1, K, 8)) < 0.5),
    }
    loss, gradients = reference.linear_loss_and_grad(hidden, classifier, labels, axis=1, **others)
    call = partial(ms.linear_loss_and_grad, axis=1, chunk_rows=5)
    for mesh, function in ((MESHES["explicit"], compiled(call)), (MESHES["auto"], call)):
        with jax.set_mesh(mesh):
            own = NamedSharding(mesh, P("data", None, "model")), NamedSharding(mesh, P("data", "model"))
            found = function(jax.device_put(hidden, own[0]), classifier, jax.device_put(labels, own[1]), **others)
        same(found, (loss, (*gradients[:2], None)))
    print("elements may be split on any axis", flush=True)


def rows_by_hand():
    """`shard_map` over the axes of the rows leaves the classes to the compiler, on explicit meshes too."""
    letters, arrays, _ = drawn((False, "", {}), 0)
    _, arrays = head_of(letters, arrays, 0)
    own = {"hidden": P("data"), "classifier": P("model"), "bias": P("model"), "targets": P("data")}
    loss, gradients = reference.linear_loss_and_grad(**arrays)

    def part(hidden, classifier, bias, labels):
        count = ms.normalizer(labels, K, axis_name="data")
        loss, gradients = ms.linear_loss_and_grad(hidden, classifier, labels, bias=bias, normalizer=count, chunk_rows=2)
        return jax.lax.psum(loss, "data"), gradients

    rows = {name: P("data") if spec == P("data") else P() for name, spec in own.items()}
    for mesh in MESHES.values():
        with jax.set_mesh(mesh):
            given = [jax.device_put(arrays[name], NamedSharding(mesh, spec)) for name, spec in own.items()]
            split = jax.shard_map(
                part,
                axis_names={"data"},
                in_specs=tuple(rows.values()),
                out_specs=(P(), tuple(rows[name] for name in PARAMETERS)),
            )
            same(compiled(split)(*given), (loss, gradients))
    print("rows may be split by hand on any mesh", flush=True)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[part]()
