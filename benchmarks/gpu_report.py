"""The results of `gpu.py` as Markdown tables and a picture."""

from functools import partial

from contenders import BASE, FLOOR
from gpu_contenders import ADDITION, IN_JAX, PRODUCTS
from report import by_shape, errors_text, table
from report import number as with_digits

AT_ONCE = "multismooth.torch, loss_and_grad"
JAX_KERNEL_ABOVE = 1.3  # above this ratio to our own kernels, JAX needs a kernel of its own
number = partial(with_digits, digits=3)  # the goals, 1.1 and 1.25 times a floor, must be readable


def relative(result, dtype, name, key="seconds"):
    """A cell: a row's time relative to that of one contender in the same problem."""
    base = {tuple(row["shape"]): row[key] for row in result["rows"] if (row["dtype"], row["name"]) == (dtype, name)}
    return lambda row: number(row[key] / base[tuple(row["shape"])]) if tuple(row["shape"]) in base else "–"


def of_group(result, dtype):
    """The tables of one group of problems."""
    rows = [row for row in result["rows"] if row["dtype"] == dtype]
    head = any(row["name"] == PRODUCTS for row in rows)
    yield f"Time, ms, {dtype}", lambda row: number(row["seconds"] * 1e3)
    for base in (PRODUCTS, BASE) if head else (FLOOR, ADDITION, BASE):
        yield f"Time / {base}, {dtype}", relative(result, dtype, base)
    if any("wall" in row for row in rows):
        yield f"Wall clock of a call, µs, {dtype}", lambda row: number(row["wall"] * 1e6)
    yield f"Error of loss / gradients against float64, {dtype}", errors_text
    if any(row["memory"] is not None for row in rows):
        yield f"Peak extra memory{', GiB' if head else ' / logits'}, {dtype}", lambda row: number(row["memory"])


def markdown(result):
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    hidden = ("versions", "warning", "huge pages", "GLIBC_TUNABLES")
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in hidden)
    parts = [f"**{machine['warning']}**\n"] if "warning" in machine else []
    parts.append(f"{facts}. {versions}.\n")
    for dtype in dict.fromkeys(row["dtype"] for row in result["rows"]):
        parts += [table(title, *by_shape(result, dtype, cell)) for title, cell in of_group(result, dtype)]
    parts += [in_jax(result), remarks(result), left_out(result)]
    return "\n".join(part for part in parts if part)


def in_jax(result):
    """The ratios that decide whether JAX needs a kernel of its own, as a sentence."""
    time = {(row["dtype"], *row["shape"], row["name"]): row["seconds"] for row in result["rows"]}
    both = [key[:-1] for key in time if key[-1] == IN_JAX.name and (*key[:-1], AT_ONCE) in time]
    ratios = [time[*key, IN_JAX.name] / time[*key, AT_ONCE] for key in both]
    if not ratios or "warning" in result["machine"]:
        return ""
    decision = "is wanted" if max(ratios) > JAX_KERNEL_ABOVE else "is not wanted"
    listed = ", ".join(map(number, ratios))
    return f"{IN_JAX.name} / {AT_ONCE}: {listed}. A kernel for JAX (above {JAX_KERNEL_ABOVE}) {decision}.\n"


def remarks(result):
    """What each contender leaves out or does in addition, and which of our implementations ran."""
    found = {}
    for row in result["rows"]:
        found.setdefault((row["name"], row["remark"]), set()).update(row["ran"])
    rows = [(name, [remark or "–", ", ".join(sorted(ran)) or "–"]) for (name, remark), ran in found.items()]
    return table("What is left out, and which of our kernels ran", ["remark", "ran"], rows)


def left_out(result):
    """Which contenders could not be measured, on which problems and why."""
    places = {}
    for row in result["left out"]:
        shape = "×".join(map(str, row["shape"]))
        places.setdefault((row["name"], row["reason"]), []).append(f"{shape} {row['dtype']}")
    rows = [(name, ["; ".join(where), reason.replace("|", "\\|")]) for (name, reason), where in places.items()]
    return table("Not measured", ["where", "why"], rows) if rows else ""


def picture(result, path):
    """A panel for each group: bars of time / floor, this library in colour, others in grey, floors as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(row["dtype"] for row in result["rows"]))
    figure, panels = plt.subplots(len(groups), figsize=(13, 4.2 * len(groups)), layout="constrained", squeeze=False)
    for axes, group in zip(panels[:, 0], groups, strict=True):
        panel(axes, [row for row in result["rows"] if row["dtype"] == group])
        axes.set_title(f"Loss and gradient, {group}, {result['machine']['processor']}: lower is faster")
    figure.suptitle(result["machine"].get("warning", ""), color="crimson")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def panel(axes, rows):
    from matplotlib import colormaps

    floors = {FLOOR: "-", ADDITION: ":", PRODUCTS: "-"}
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    ratio = {(row["name"], tuple(row["shape"])): row["ratio"] for row in rows}
    names = [name for name in dict.fromkeys(row["name"] for row in rows) if name not in floors]
    ours = [name for name in names if name.startswith("multismooth")]
    width = 0.85 / max(len(names), 1)
    for index, name in enumerate(names):
        scale, family = ("viridis", ours) if name in ours else ("Greys", [x for x in names if x not in ours])
        colour = colormaps[scale](0.25 + 0.6 * family.index(name) / max(len(family) - 1, 1))
        heights = [ratio.get((name, shape), float("nan")) for shape in shapes]
        places = [k + width * (index - len(names) / 2) for k in range(len(shapes))]
        axes.bar(places, heights, width, label=name, color=colour, align="edge")
    for name, style in floors.items():
        for k, shape in enumerate(shapes):
            if (name, shape) in ratio:
                label = name if k == 0 else None
                axes.hlines(ratio[name, shape], k - 0.43, k + 0.43, color="crimson", ls=style, lw=1.5, label=label)
    axes.set_yscale("log")
    axes.set_xticks(range(len(shapes)), ["×".join(map(str, shape)) for shape in shapes])
    axes.set_ylabel("time / floor")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
