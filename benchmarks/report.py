"""The results of `cpu.py` as JSON, Markdown tables and a picture."""

import json
from pathlib import Path


def table(title, columns, rows):
    head = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    body = ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows]
    return "\n".join([f"**{title}**", "", *head, *body, ""])


def by_shape(result, dtype, cell):
    """(columns, rows) of a table for one dtype: a row for each contender, a column for each shape."""
    rows = [row for row in result["rows"] if row["dtype"] == dtype]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    found = {(row["name"], tuple(row["shape"])): cell(row) for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))
    columns = ["×".join(map(str, shape)) for shape in shapes]
    return columns, [(name, [found.get((name, shape), "–") for shape in shapes]) for name in names]


def number(value, digits=2):
    """A number with some significant digits and without an exponent."""
    return "–" if value is None else f"{float(f'{value:.{digits}g}'):g}"


def errors_text(row):
    return "–" if row["error"] is None else " / ".join(f"{x:.0e}" for x in row["error"])


def markdown(result):
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [f"{machine['processor']}, {machine['cores']} cores, {machine['date']}. {versions}.\n"]
    for dtype in dict.fromkeys(row["dtype"] for row in result["rows"]):
        parts += [
            table(f"Time / torch eager, {dtype}", *by_shape(result, dtype, lambda row: number(row["ratio"]))),
            table(f"Time / copy of the logits, {dtype}", *by_shape(result, dtype, lambda row: number(row["floors"]))),
            table(f"Error of loss / gradient against float64, {dtype}", *by_shape(result, dtype, errors_text)),
        ]
        if any("memory" in row for row in result["rows"] if row["dtype"] == dtype):
            columns, rows = by_shape(result, dtype, lambda row: number(row.get("memory")))
            parts.append(table(f"Peak extra memory / logits, {dtype}", columns, rows))
    if "sweep" in result:
        names = [name for name in result["sweep"][-1] if name != "shape"]
        rows = [("×".join(map(str, r["shape"])), [number(r.get(n)) for n in names]) for r in result["sweep"]]
        parts.append(table("Time / torch eager, float32", names, rows))
    if "linear" in result:
        size = result["linear"]
        rows = [(name, [number(ratio)]) for name, ratio in size["ratios"].items()]
        title = f"Linear head, N = {size['rows']}, D = {size['features']}, K = {size['classes']}"
        parts.append(table(title, ["time / the three matrix products"], rows))
    if "options" in result:
        names = list(result["options"][0]["ratios"])
        rows = [
            (f"{'×'.join(map(str, r['shape']))}, {r['implementation']}", [number(r["ratios"][n]) for n in names])
            for r in result["options"]
        ]
        parts.append(table("Time with an option / without", names, rows))
    return "\n".join(parts)


IN_README = [
    "torch eager",
    "torch.compile",
    "multismooth.torch",
    "multismooth.torch, fast",
    "SciPy log_softmax",
    "multismooth.numpy",
    "multismooth.numpy, fast",
    "multismooth.numpy, fast, out=",
    "optax one-hot",
    "multismooth.jax",
    "copy (floor)",
]


def for_readme(result):
    """The table of README.md. A test compares it with the committed results."""
    machine = result["machine"]
    columns, rows = by_shape(result, "float32", lambda row: number(row["ratio"]))
    cells = dict(rows)
    title = f"Time / torch eager {machine['versions']['torch'].split('+')[0]}, float32, {machine['cores']} cores"
    return table(title, columns, [(f"`{name}`", cells[name]) for name in IN_README if name in cells])


def picture(result, path):
    """Bars of time / torch eager in float32, a group for each shape: this library in colour, others in grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if row["dtype"] == "float32"]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    names = [n for n in dict.fromkeys(r["name"] for r in rows) if "floor" not in n and "out=" not in n]
    ours = iter(plt.get_cmap("viridis")([0.15, 0.3, 0.5, 0.65, 0.8, 0.95]))
    grey = iter(plt.get_cmap("Greys")([0.75, 0.62, 0.5, 0.4, 0.3, 0.2]))
    colours = {name: next(ours if name.startswith("multismooth") else grey) for name in names}
    ratio = {(row["name"], tuple(row["shape"])): row["ratio"] for row in rows}
    figure, axes = plt.subplots(figsize=(13, 4.6), layout="constrained")
    width = 0.85 / len(names)
    for index, name in enumerate(names):
        places = [k + width * (index - len(names) / 2) for k in range(len(shapes))]
        heights = [ratio.get((name, shape), float("nan")) for shape in shapes]
        axes.bar(places, heights, width, label=name, color=colours[name], align="edge")
    for k, shape in enumerate(shapes):
        floor = ratio.get(("copy (floor)", shape))
        if floor:
            axes.hlines(
                floor, k - 0.43, k + 0.43, color="crimson", lw=1.5, label="copy of the logits" if k == 0 else None
            )
    axes.set_yscale("log")
    axes.set_xticks(range(len(shapes)), ["×".join(map(str, shape)) for shape in shapes])
    axes.set_ylabel("time / torch eager")
    axes.set_title("Loss and gradient on a CPU, float32: lower is faster")
    figure.legend(fontsize="small", loc="outside right upper", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def save(result, options, markdown=markdown, picture=picture):
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    if options.markdown:
        Path(options.markdown).write_text(text)
    else:
        print(text)
    if options.plot:
        picture(result, options.plot)
