"""Run by test_jax_sharding on eight CPU devices: what the compiled programs of split arrays compute and send.

`python jax_sharded_programs.py FOLDER` reads the programs of calls outside of `jit` where XLA prints them. It prints a
JSON object: {name: {"flops": of one device, "once" and "in a loop": {collective: how many}}}. Among the
collectives, "classifier" counts sums over devices of an array as large as a device's part of the classifier.
"""

import json
import re
import sys
from collections import Counter
from functools import partial
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import multismooth.jax as ms

PRINTED = Path(sys.argv[1])  # where XLA prints its programs
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
N, K, D = 64, 1024, 16
MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
EXPLICIT = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(")
BOTH, CLASSES, ROWS = P("data", "model"), P(None, "model"), P("data", None)


def collectives(text):
    """({collective: how many run once}, {collective: how many stand in the bodies of loops}) of a program's text."""
    blocks, name = {}, None
    for line in text.splitlines():
        if line.endswith("{") and (start := re.match(r"(?:ENTRY )?%?([\w.-]+) ", line)):
            blocks[name := start[1]] = []
        elif name is not None:
            blocks[name].append(line)
    called = {name: set(re.findall(r"(?:body|calls|to_apply)=%?([\w.-]+)", "\n".join(b))) for name, b in blocks.items()}
    looped, todo = set(), re.findall(r"body=%?([\w.-]+)", text)
    while todo:
        looped.add(name := todo.pop())
        todo += called.get(name, set()) - looped
    counts = Counter(), Counter()
    for name, lines in blocks.items():
        for result, collective in (found.groups() for line in lines if (found := COLLECTIVE.search(line))):
            counts[name in looped][collective] += 1
            sizes = [prod(map(int, filter(None, size.split(",")))) for size in re.findall(r"\w+\[([\d,]*)\]", result)]
            counts[name in looped]["classifier"] += sum(size >= K // 4 * D for size in sizes)
    return [+count for count in counts]


def program(function, mesh, *arrays):
    """`arrays`: (shape, dtype, PartitionSpec). The function's gradients are with respect to floating ones."""
    given = [jax.ShapeDtypeStruct(s, d, sharding=NamedSharding(mesh, spec)) for s, d, spec in arrays]
    floating = tuple(k for k, (_, dtype, _) in enumerate(arrays) if dtype is float)
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.value_and_grad(function, argnums=floating)).lower(*given).compile()
    once, in_a_loop = collectives(compiled.as_text())
    return {"flops": compiled.cost_analysis()["flops"], "once": once, "in a loop": in_a_loop}


def outside_of_jit(mesh, classes, call):
    """The programs of a call outside of `jit`, as one."""
    shapes = ((N, D), float, P("data")), ((K, D), float, P(classes)), ((N,), int, P("data"))
    arrays = [jax.device_put(jnp.ones(s, dtype), NamedSharding(mesh, spec)) for s, dtype, spec in shapes]
    jax.config.update("jax_enable_compilation_cache", False)  # what is read from there is not printed
    before = set(PRINTED.iterdir())
    call(*arrays)
    jax.config.update("jax_enable_compilation_cache", True)
    new = set(PRINTED.iterdir()) - before
    texts = [path.read_text() for path in new if path.name.endswith("after_optimizations.txt")]
    once, in_a_loop = (sum(counts, Counter()) for counts in zip(*map(collectives, texts), strict=True))
    return {"once": once, "in a loop": in_a_loop}


def loss(mesh, where):
    return program(ms.loss, mesh, ((N, K), float, where), ((N,), int, P(where[0])))


def head(mesh, rows, classes, function=None, number=K):
    function = function or partial(ms.linear_loss, chunk_rows=16)
    return program(function, mesh, ((N, D), float, P(rows)), ((number, D), float, P(classes)), ((N,), int, P(rows)))


def rows_by_hand(hidden, classifier, labels):
    """The recipe of docs/scale.md: rows split by shard_map, classes by the compiler."""
    count = jax.lax.psum(jnp.sum(labels >= 0).astype(float), "data")
    loss = ms.linear_loss(hidden, classifier, labels, ignore_index=-100, normalizer=count, chunk_rows=8)
    return jax.lax.psum(loss, "data")


def all_by_hand(hidden, classifier, labels):
    count = jax.lax.psum(jnp.sum(labels >= 0).astype(float), "data")
    return jax.lax.psum(
        ms.linear_loss(hidden, classifier, labels, normalizer=count, chunk_rows=8, axis_name="model"), "data"
    )


if __name__ == "__main__":
    shard_map = partial(jax.shard_map, mesh=MESH, out_specs=P())
    rows = shard_map(rows_by_hand, in_specs=(P("data"), P(), P("data")), axis_names={"data"})
    every = shard_map(all_by_hand, in_specs=(P("data"), P("model"), P("data")))
    named = shard_map(partial(ms.loss, axis_name="model"), in_specs=(CLASSES, P()))
    found = {
        f"loss on {mesh}: {where}": loss(m, where)
        for mesh, m in (("auto", MESH), ("explicit", EXPLICIT))
        for where in (BOTH, CLASSES, ROWS)
    }
    found |= {
        "loss with axis_name": program(named, MESH, ((N, K), float, CLASSES), ((N,), int, P())),
        "head on one device": head(Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model")), None, None),
        "head: classes": head(MESH, None, "model"),
        "head: rows": head(MESH, "data", None),
        "head: rows and classes": head(MESH, "data", "model"),
        "head of many classes: rows and classes": head(MESH, "data", "model", number=20 * K),
        "head of many classes on explicit: rows and classes": head(EXPLICIT, "data", "model", number=20 * K),
        "head on explicit: rows": head(EXPLICIT, "data", None),
        "head on explicit: rows and classes": head(EXPLICIT, "data", "model"),
        "head: rows in shard_map": head(MESH, "data", "model", rows),
        "head: rows alone in shard_map": head(MESH, "data", None, rows),
        "head: rows and classes in shard_map": head(MESH, "data", "model", every),
    }
    elements = (
        ((4, N // 4, D), float, P(None, "data")),
        ((K, D), float, P("model")),
        ((4, N // 4), int, P(None, "data")),
    )
    HEAD = partial(ms.linear_loss, chunk_rows=16)
    found |= {"head on explicit: rows and classes, rows on their second axis": program(HEAD, EXPLICIT, *elements)}
    found |= {
        f"outside of jit, {what}: rows and {classes}": outside_of_jit(MESH, classes, call)
        for classes in (None, "model")
        for what, call in (
            ("differentiated", jax.value_and_grad(HEAD, argnums=(0, 1))),
            ("loss_and_grad", partial(ms.linear_loss_and_grad, chunk_rows=16)),
        )
    }
    print(json.dumps(found))
