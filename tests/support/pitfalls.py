"""The pitfalls: one input per case, what PyTorch, Optax and multismooth each do with it, and the table that says so.

`python tests/support/pitfalls.py` rewrites the tables between the markers in docs/pitfalls.md and README.md;
test_pitfalls.py runs every cell again.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pitfall_columns as columns
from adapters import JAX, NUMPY, TORCH
from pitfall_columns import by_optax, by_torch, lacks, ours, rows
from requirements import REQUIRED, need

BACKENDS = tuple(b for b in (NUMPY, TORCH, JAX) if b.framework in REQUIRED or find_spec(b.framework))
BEGIN, END = "<!-- table -->", "<!-- /table -->"
Z, Y, ONE_HOT = columns.Z, columns.Y, columns.ONE_HOT
IMPOSSIBLE, POSSIBLE = columns.IMPOSSIBLE, columns.POSSIBLE


@dataclass(frozen=True)
class Case:
    """One input. A column's callable returns (loss, gradient), a number, a row, text, or a dict of these.

    doubtful: nobody can mean this input, so a plain number reads "accepted: …". short: also in the README.
    """

    name: str
    torch: Callable
    optax: Callable
    multismooth: Callable
    doubtful: bool = False
    short: bool = False


def same(name, logits, targets, optax=None, *, doubtful=False, short=False, **settings):
    """A case in which PyTorch and multismooth get the same arguments."""
    epsilon = settings.get("label_smoothing", 0.1)
    return Case(
        name,
        lambda: by_torch(logits, targets, **settings),
        optax or (lambda: by_optax(logits, rows(targets, epsilon))),
        ours(logits, targets, **settings),
        doubtful,
        short,
    )


def label(value, doubtful=True, short=False):
    targets = columns.last_label(value)
    name = f"label {value}".replace("-", "−")
    return same(name, Z, targets, lambda: columns.both_routes(Z, targets), doubtful=doubtful, short=short)


def row_of(convention):
    return lambda backend: columns.implied_row(lambda z, y: ours(z, y, convention=convention)(backend))


def weighted(compute):
    """A loss with class weights, for labels and for the same labels as one-hot rows."""
    return {"labels": compute(Z, Y, weight=columns.RARE), "one-hot": compute(Z, ONE_HOT, weight=columns.RARE)}


CASES = (
    # --- what ε means, what the number means
    same("labels, the plain case", Z, Y),
    Case(
        "the target row of label 0, K = 3",
        lambda: columns.implied_row(by_torch),
        lambda: columns.implied_row(lambda z, y: by_optax(z, rows(y))),
        lambda backend: {name: row_of(name)(backend) for name in ("torch", "others")},
        short=True,
    ),
    same("targets that are smoothed already", Z, columns.SMOOTHED),
    Case(
        "KL divergence to the smoothed rows, mean of the rows",
        lambda: columns.kl_by_torch("batchmean"),
        columns.kl_by_optax,
        lambda backend: ours(Z, Y, convention=columns.KL)(backend)[0],
    ),
    Case(
        "KL divergence to the smoothed rows, reduction 'mean'",
        lambda: columns.kl_by_torch("mean"),
        lambda: lacks(need("optax").losses.kl_divergence, "reduction"),
        lambda backend: ours(Z, Y, convention=replace(columns.KL, denominator="classes"))(backend)[0],
    ),
    Case(
        "a model that predicts exactly the target row, K = 3",
        lambda: columns.perfect(by_torch),
        lambda: columns.perfect(lambda z, y: by_optax(z, rows(y))),
        lambda backend: columns.perfect(lambda z, y: ours(z, y)(backend)),
    ),
    # --- ε that nobody means
    same("ε = 0.9", Z, Y, label_smoothing=0.9, doubtful=True),
    same("ε = 1.5", Z, Y, label_smoothing=1.5, doubtful=True),
    same("ε = −0.1", Z, Y, label_smoothing=-0.1, doubtful=True),
    same("ε = NaN", Z, Y, label_smoothing=float("nan"), doubtful=True),
    same("ε = True", Z, Y, label_smoothing=True, doubtful=True),
    # --- targets
    label(3),
    label(-1, short=True),
    label(255),
    label(-100, doubtful=False),
    same("the one-hot row of label 3: zeros", Z, np.eye(4, 3, dtype=np.float32)[[0, 2, 1, 3]], doubtful=True),
    same("int32 labels", Z, Y.astype(np.int32)),
    same("integer one-hot rows", Z, ONE_HOT.astype(int)),
    same("class ids as floats", Z, Y.astype(np.float32), columns.float_ids_by_optax, doubtful=True),
    same("regression targets of the logits' shape", Z, Z, doubtful=True, short=True),
    same("soft rows that sum to 2", Z, 2 * ONE_HOT, doubtful=True),
    same("soft rows with an entry of −1", Z, np.array([[2, -1, 0]] * 4, np.float32), doubtful=True),
    same(
        "soft rows and ignore_index=0",
        Z,
        ONE_HOT,
        lambda: lacks(need("optax").softmax_cross_entropy, "ignore_index"),
        ignore_index=0,
    ),
    same("probabilities in place of logits", columns.softmax(Z), Y, doubtful=True),
    same("logits (N, T, K) with T = K, labels (N, T)", columns.CUBE, columns.CUBE_LABELS, columns.last_axis_by_optax),
    # --- classes that cannot occur
    same(
        "a −inf logit on a class that does not occur, ε = 0",
        IMPOSSIBLE,
        POSSIBLE,
        lambda: columns.both_routes(IMPOSSIBLE, POSSIBLE, 0.0),
        label_smoothing=0.0,
    ),
    same("a −inf logit on a class that does not occur", IMPOSSIBLE, POSSIBLE, short=True),
    Case(
        "the same, told that the class does not exist",
        lambda: lacks(need("torch").nn.functional.cross_entropy, "class_mask"),
        columns.masked_by_optax,
        ours(IMPOSSIBLE, POSSIBLE, class_mask=columns.CLASSES),
        short=True,
    ),
    same(
        "soft rows with 0 on the −inf class, ε = 0",
        IMPOSSIBLE,
        np.eye(3, dtype=np.float32)[POSSIBLE],
        columns.zero_times_infinity_by_optax,
        label_smoothing=0.0,
    ),
    same("class weight 0 on the −inf class", IMPOSSIBLE, POSSIBLE, columns.weightless, weight=columns.EXISTING),
    # --- elements that do not count
    Case(
        "every label ignored",
        lambda: by_torch(Z, columns.IGNORED),
        lambda: columns.ignoring_by_optax(np.zeros(4, bool)),
        ours(Z, columns.IGNORED),
    ),
    same("an empty batch", Z[:0], Y[:0]),
    same(
        "NaN logits in an ignored row",
        columns.BROKEN,
        columns.last_label(-100),
        lambda: columns.ignoring_by_optax(np.arange(4) < 3),
    ),
    # --- class weights
    Case(
        "class weights 1, 5, 0.2, labels or the same labels one-hot",
        lambda: weighted(by_torch),
        columns.weightless,
        lambda backend: weighted(lambda *arrays, **settings: ours(*arrays, **settings)(backend)),
    ),
    same(
        "class weights 1, 1, 40: the optimum predicts the wrong class",
        Z,
        Y,
        columns.weightless,
        weight=columns.EXTREME,
        doubtful=True,
        short=True,
    ),
    # --- precision and memory
    same(
        "float16 logits, K = 4000",
        columns.WIDE,
        columns.FIRST,
        lambda: by_optax(columns.WIDE, rows(columns.FIRST, classes=4000)),
        short=True,
    ),
    Case(
        "bfloat16 logits, K = 50,000",
        lambda: columns.in_bfloat16(columns.torch_bfloat16),
        lambda: columns.in_bfloat16(lambda z: columns.optax_mean(need("jax").numpy.asarray(z), columns.FIRST[:1])),
        columns.our_bfloat16,
    ),
    Case(
        "memory that loss and gradient take",
        lambda: columns.peak_in_torch(
            lambda z, y: need("torch").nn.functional.cross_entropy(z, y, label_smoothing=0.1)
        ),
        lambda: columns.peak_in_jax(columns.optax_mean),
        columns.our_peak,
        short=True,
    ),
)


# --- from results to text -------------------------------------------------------------------------------------------


def number(value):
    text = f"{float(value):.4g}".replace("-", "−")
    return {"nan": "NaN", "−0": "0"}.get(text, text)


def text_of(result):
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        return "; ".join(f"{name}: {text_of(value)}" for name, value in result.items())
    if not isinstance(result, tuple):
        result = np.asarray(result)
        return number(result) if result.ndim == 0 else "[" + ", ".join(map(number, result)) + "]"
    loss, gradient = float(result[0]), np.asarray(result[1], np.float32)
    slope = "zero" if gradient.size and not gradient.any() else "finite" if np.isfinite(gradient).all() else "NaN"
    if np.isfinite(loss):
        return number(loss) + ("" if slope == "finite" else f", {slope} gradient")
    return f"{number(loss)} loss" + (f", {slope} gradient" if gradient.size else "")


def first_words(error, limit=74):
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= limit else text[:limit].rpartition(" ")[0] + " …"


def cell(case, column, *arguments):
    """What one column does with a case, as text; NotImplemented where a backend has no such case."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = getattr(case, column)(*arguments)
        except Exception as error:
            return first_words(error)
    if result is NotImplemented:
        return result
    text = text_of(result)
    if case.doubtful and not said and not text.startswith("has no"):
        text = f"accepted: {text}"
    return ", ".join([text, *sorted({warning.category.__name__ for warning in said})])


def our_cell(case):
    """multismooth's column: one text, because every backend must do the same."""
    texts = {b.name: text for b in BACKENDS if (text := cell(case, "multismooth", b)) is not NotImplemented}
    if not texts:
        need("torch")
    if len(set(texts.values())) != 1:
        raise AssertionError(f"{case.name}: the backends differ: {texts}")
    return next(iter(texts.values()))


# --- the table ------------------------------------------------------------------------------------------------------


def header():
    torch, optax = need("torch").__version__.partition("+")[0], need("optax").__version__
    return ["input", f"PyTorch {torch}", f"Optax {optax}", "multismooth"]


def table(cases):
    """The Markdown table of the cases, every cell computed now."""
    lines = [header(), ["---"] * 4]
    lines += [[case.name, cell(case, "torch"), cell(case, "optax"), our_cell(case)] for case in cases]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read_table(path):
    """(header, {row name: its cells}) of the table between the markers of a file."""
    text = path.read_text(encoding="utf-8")
    lines = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip().splitlines()
    header, _, *rows = ([part.strip() for part in re.split(r" \| ", line.strip("| "))] for line in lines)
    return header, {name: cells for name, *cells in rows}


ROOT = Path(__file__).parents[2]
PAGES = {ROOT / "docs" / "pitfalls.md": CASES, ROOT / "README.md": tuple(case for case in CASES if case.short)}


def rewrite():
    for path, cases in PAGES.items():
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        path.write_text(f"{before}{BEGIN}\n{table(cases)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
