"""One table of hard inputs: calls of the loss at which floating point, layouts, dtypes or shapes are unkind.

A row holds NumPy arrays in the dtypes in which they are given; `hard_answers` says what is right, `hard_paths` who is
asked. Every number of a live element is finite, or is −inf where that has an answer.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from adapters import bfloat16

from multismooth.registry import conventions

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(11)
F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(bfloat16())
KL = replace(conventions["torch"], objective="kl")
EXCLUDING = replace(conventions["torch"], exclude=(2,))


@dataclass(frozen=True, eq=False)
class Hard:
    """A call `loss(logits, targets, **settings)`.

    layout: how its arrays lie in memory (`LAYOUTS`). under: the name of what the call is made in (`hard_paths.UNDER`).
    core: it stands for its kind where each kind of call is compiled for seconds.
    """

    name: str
    logits: np.ndarray
    targets: np.ndarray
    settings: dict = field(default_factory=dict)
    layout: str = "plain"
    under: str = "nothing"
    core: bool = False

    @property
    def soft(self):
        return self.targets.dtype.kind not in "iu"

    @property
    def axis(self):
        return self.settings.get("axis", -1) % self.logits.ndim

    @property
    def classes(self):
        return self.logits.shape[self.axis]

    @property
    def elements(self):
        return tuple(n for k, n in enumerate(self.logits.shape) if k != self.axis)

    @property
    def dtype(self):
        return str(self.logits.dtype)

    @property
    def dead(self):
        """Which elements count for nothing."""
        s = np.broadcast_to(self.settings.get("sample_weight", 1.0), self.elements)
        return (s == 0) if self.soft else (s == 0) | (self.targets == self.settings.get("ignore_index", -100))

    @property
    def existing(self):
        """Which classes exist, in the shape of the logits."""
        mask = np.asarray(self.settings.get("class_mask", True))
        rows = np.broadcast_to(mask, self.last(self.logits).shape) if mask.ndim < 2 else self.last(mask)
        return np.moveaxis(rows, -1, self.axis)

    def last(self, array):
        """An array of the logits' shape, classes last."""
        return np.moveaxis(array, self.axis, -1)

    @property
    def head(self):
        """(hidden, classifier, bias) whose logits these are: the features are they, the classifier is the identity.

        A class at −inf or NaN for all live elements has that as its bias. None: one is infinite for some of them.
        """
        rows, active = self.last(self.logits), ~self.dead
        hidden, bias = rows.copy(), np.zeros(self.classes, self.logits.dtype)
        for k in range(self.classes):
            live = rows[active][:, k].astype(np.float64)
            if live.size and not np.isfinite(live).all():
                if len({str(x) for x in live}) > 1:
                    return None
                bias[k] = live[0]
                hidden[..., k][active] = 0
        hidden = np.ascontiguousarray(np.moveaxis(hidden, -1, self.axis))
        return hidden, np.eye(self.classes, dtype=self.logits.dtype), bias


# --- how arrays lie in memory -----------------------------------------------------------------------------------------


def strided(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def expanded(a):
    """Equal entries along the first axis, in the memory of one of them."""
    return np.broadcast_to(a[:1], a.shape)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "plain": lambda a: a,
    "Fortran": lambda a: np.asfortranarray(a),
    "strided": strided,
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "expanded": expanded,
    "classes last in memory": lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) if a.ndim > 2 else a,
    "read-only": read_only,
    "negative bit": lambda a: a,  # PyTorch alone has one
    "arrays beside tensors": lambda a: a,
}


# --- the table --------------------------------------------------------------------------------------------------------

SHAPE = ELEMENTS, K = (4,), 5
LABELS = np.array([2, 0, 4, 1])
Z = (2 * RNG.normal(size=(4, 5))).astype(F32)
STEPS = np.array([[0, 0, 0, 0, 0], [0, 0, -1, 0, -1], [1, 0, 0, -1, -2], [0, -1, 0, -1, 0]])
IMAGE, IMAGE_LABELS = (2 * RNG.normal(size=(2, 5, 2, 2))).astype(F32), RNG.integers(0, 5, (2, 2, 2))
WEIGHTS = np.array([0.75, 1.0, 1.25, 0.8, 1.1], F32)
PRIOR = np.array([0.5, 0.125, 0.0, 0.25, 0.125], F32)
MASK = np.array([True, True, False, True, True])
LEFT = np.array([3, 0, 4, 1])  # labels without class 2
SOFT = RNG.dirichlet(np.ones(5), 4).astype(F32)
CORNERS = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0.5, 0, 0.5, 0], [0.25, 0, 0.25, 0.25, 0.25]], F32)
WITHOUT = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0.5, 0, 0.5, 0], [0.25, 0.25, 0, 0.25, 0.25]], F32)
IGNORED = np.array([2, -100, 4, -100])
COUNTS = np.array([1.5, 0.0, 0.5, 0.0], F32)


def shifted(offset, dtype=F32):
    """Logits whose differences the dtype still holds beside the offset."""
    if abs(offset) < 1e6 and dtype == F32:
        return (Z + offset).astype(dtype)
    step = {1e8: 8.0, 1e15: 8.0, 1e4: 64.0}[abs(offset)]
    return (STEPS * step + offset).astype(dtype)


def at(z, where, value):
    """A copy with one value at an index."""
    z = np.array(z)
    z[where] = value
    return z


def column(z, value, k=2):
    return at(z, (..., k), value)


def rows():
    yield from offsets()
    yield from narrow()
    yield from dead()
    yield from nothing()
    yield from targets()
    yield from infinite()
    yield from few_classes()
    yield from sizes()
    yield from layouts()
    yield from integers()


def offsets():
    yield Hard("offset 0", shifted(0.0), LABELS, core=True)
    for offset in (1e4, 1e8, -1e8):
        yield Hard(f"offset {offset:g}", shifted(offset), LABELS)
    far = shifted(1e8)
    yield Hard("offset 1e8, soft", far, SOFT, core=True)
    yield Hard("offset 1e8, prior", far, LABELS, {"prior": PRIOR}, core=True)
    yield Hard("offset 1e8, class weights", far, LABELS, {"weight": WEIGHTS}, core=True)
    yield Hard("offset 1e8, class mask", far, LEFT, {"class_mask": MASK})
    yield Hard("offset -1e8, an ε for each", -far, LABELS, {"label_smoothing": np.array([0.0, 0.1, 0.4, 1.0], F32)})
    yield Hard("offset 1e8, kl", far, LABELS, {"convention": KL})
    yield Hard("offset 1e4, z-loss", shifted(1e4), LABELS, {"z_loss": 1e-4})
    image = (8 * RNG.integers(-2, 2, IMAGE.shape) + 1e8).astype(F32)
    yield Hard("offset 1e8, images", image, IMAGE_LABELS, {"axis": 1})
    yield Hard("offset 1e15 in float64", shifted(1e15, np.float64), LABELS)
    yield Hard("offset 1e15 in float64, soft", shifted(1e15, np.float64), CORNERS.astype(np.float64))


def narrow():
    for dtype in (BF16, F16):
        name, soft = dtype.name, (np.round(SOFT * 64) / 64).astype(F32)
        soft[:, 0] += 1 - soft.sum(1)
        yield Hard(f"{name} logits", Z.astype(dtype), LABELS, core=dtype == F16)
        yield Hard(f"{name} logits, offset 1e4", shifted(1e4, dtype), LABELS)
        yield Hard(f"{name} logits, NaN behind an ignored label", at(Z, 1, NAN).astype(dtype), IGNORED)
        yield Hard(f"{name} logits and class weights", Z.astype(dtype), LABELS, {"weight": WEIGHTS.astype(dtype)})
        yield Hard(f"{name} rows", Z, soft.astype(dtype))
        yield Hard(f"{name} rows, rounded", Z, SOFT.astype(dtype))
        yield Hard(f"{name} logits and rows", Z.astype(dtype), SOFT.astype(dtype), core=dtype == BF16)
        yield Hard(f"{name} logits and one-hot rows", Z.astype(dtype), CORNERS.astype(dtype))
    yield Hard("float16 logits at ±6e4", np.array([[6e4, -6e4, 0, 6e4, 1]] * 4, F16), np.array([0, 1, 2, 3]))
    yield Hard("float16 logits below its normal numbers", np.full((4, 5), 6e-8, F16), LABELS)


def dead():
    yield Hard("NaN behind an ignored label", at(Z, ([1, 3], [0, 4]), NAN), IGNORED, core=True)
    yield Hard("inf behind an ignored label", at(at(Z, 1, INF), 3, -INF), IGNORED)
    yield Hard("NaN behind an ignored label, offset 1e8", at(shifted(1e8), 1, NAN), IGNORED)
    yield Hard("NaN behind an ignored label, z-loss", at(Z, 1, NAN), IGNORED, {"z_loss": 1e-2})
    yield Hard("NaN behind an ignored label, kl, prior", at(Z, 1, NAN), IGNORED, {"convention": KL, "prior": PRIOR})
    yield Hard("NaN behind label 0, which is ignored", at(Z, 1, NAN), LABELS, {"ignore_index": 0})
    yield Hard("NaN behind weight 0", at(Z, [1, 3], NAN), LABELS, {"sample_weight": COUNTS}, core=True)
    yield Hard("NaN behind False", at(Z, [1, 3], NAN), LABELS, {"sample_weight": COUNTS > 0})
    yield Hard("inf behind weight 0", at(Z, [1, 3], INF), LABELS, {"sample_weight": COUNTS})
    yield Hard("no label behind weight 0", at(Z, 1, NAN), at(LABELS, 1, 99), {"sample_weight": COUNTS})
    yield Hard("NaN behind weight 0, soft", at(Z, 1, NAN), CORNERS, {"sample_weight": COUNTS}, core=True)
    gone = {"sample_weight": COUNTS}
    yield Hard("NaN behind weight 0, in the rows too", at(Z, 1, NAN), at(CORNERS, [1, 3], NAN), gone)
    several = {"sample_weight": COUNTS, "weight": WEIGHTS, "prior": PRIOR, "z_loss": 1e-2}
    yield Hard("NaN behind weight 0 and an ignored label", at(Z, [0, 1, 3], NAN), at(LABELS, 0, -100), several)
    image = {"axis": 1, "ignore_index": 255}
    labels = at(IMAGE_LABELS, (1, 0), 255).astype(np.uint8)
    yield Hard("NaN behind ignored pixels", at(IMAGE, (1, slice(None), 0), NAN), labels, image, core=True)
    table = np.array([PRIOR, PRIOR[::-1], [0.2] * 5, WEIGHTS / WEIGHTS.sum(), [0, 0, 0, 0.5, 0.5]], F32)
    yield Hard("NaN behind an ignored label, a prior row for each class", at(Z, 1, NAN), IGNORED, {"prior": table})


def nothing():
    gone = np.full(4, -100)
    yield Hard("everything ignored", at(Z, 1, NAN), gone)
    yield Hard("everything ignored, divided by 0", Z, gone, {"normalizer": 0.0})
    yield Hard("everything ignored, with class weights", at(Z, 1, NAN), gone, {"weight": WEIGHTS})
    yield Hard("all weights 0", np.full_like(Z, NAN), LABELS, {"sample_weight": np.zeros(4, F32)})
    yield Hard("all False", np.full_like(Z, NAN), CORNERS, {"sample_weight": np.zeros(4, bool)})
    weight = {"weight": np.array([1, 0, 1, 0, 1], F32), "label_smoothing": 0.0}
    yield Hard("labels of weight 0 alone", Z, np.array([1, 3, 1, 1]), weight)
    yield Hard("empty", Z[:0], LABELS[:0])
    yield Hard("empty, soft", Z[:0], SOFT[:0])
    each = {"label_smoothing": np.zeros(0, F32), "sample_weight": np.zeros(0, F32), "weight": WEIGHTS}
    yield Hard("empty, with an ε and a weight for each", Z[:0], LABELS[:0], each)
    yield Hard("no images", IMAGE[:0], IMAGE_LABELS[:0], {"axis": 1})
    yield Hard("empty in float16", Z[:0].astype(F16), LABELS[:0])


def targets():
    yield Hard("one-hot rows", Z, CORNERS, core=True)
    yield Hard("one-hot rows in float64", Z.astype(np.float64), CORNERS.astype(np.float64))
    yield Hard("one-hot rows, boolean", Z, np.eye(5, dtype=bool)[LABELS])
    yield Hard("one-hot rows, ε = 0", Z, CORNERS, {"label_smoothing": 0.0})
    yield Hard("one-hot rows, ε = 1", Z, CORNERS, {"label_smoothing": 1.0})
    yield Hard("one-hot rows, kl", Z, CORNERS, {"convention": KL})
    yield Hard("one-hot rows, kl, ε = 0", Z, CORNERS, {"convention": KL, "label_smoothing": 0.0})
    yield Hard("one-hot rows, class weights with 0", Z, CORNERS, {"weight": at(WEIGHTS, 0, 0.0)})
    yield Hard("one-hot rows, a prior with 0", Z, CORNERS, {"prior": PRIOR})
    yield Hard("one-hot rows, class mask", column(Z, NAN), WITHOUT, {"class_mask": MASK})
    yield Hard("one-hot rows, an ε for each", Z, CORNERS, {"label_smoothing": np.array([0, 1, 0.5, 0.1], F32)})
    image = {"axis": 1}
    yield Hard("one-hot images", IMAGE, np.moveaxis(np.eye(5, dtype=F32)[IMAGE_LABELS], -1, 1).copy(), image)


def infinite():
    low, absent = column(Z, -INF), {"class_mask": MASK}
    yield Hard("−inf where nothing is, ε = 0", low, LEFT, {"label_smoothing": 0.0}, core=True)
    yield Hard("−inf where nothing is, ε = 0, soft", low, WITHOUT, {"label_smoothing": 0.0})
    yield Hard("−inf where the prior is 0", low, LEFT, {"prior": PRIOR})
    yield Hard("−inf where the prior is 0, soft", low, WITHOUT, {"prior": PRIOR})
    yield Hard("−inf at labels, ε = 1, prior 0 there", low, LABELS, {"label_smoothing": 1.0, "prior": PRIOR})
    yield Hard("−inf where the class weight is 0", low, LEFT, {"weight": at(WEIGHTS, 2, 0.0)})
    yield Hard("−inf in an excluded class", low, LEFT, {"convention": EXCLUDING})
    yield Hard("−inf in an absent class", low, LEFT, absent)
    yield Hard("NaN in an absent class", column(Z, NAN), LEFT, absent, core=True)
    yield Hard("inf in an absent class", column(Z, INF), LEFT, absent | {"label_smoothing": 1.0})
    some = np.ones((4, 5), bool)
    some[[0, 1, 3], [0, 2, 4]] = False
    yield Hard("NaN in classes absent from some", np.where(some, Z, NAN), LABELS, {"class_mask": some})
    some = at(some, 1, False)
    yield Hard("no class behind an ignored label", np.where(some, Z, NAN), IGNORED, {"class_mask": at(some, 3, False)})
    yield Hard("one class exists", np.where(np.arange(5) == 1, Z, NAN), np.ones(4, int), {
        "class_mask": np.arange(5) == 1})  # fmt: skip
    each = {"label_smoothing": np.array([0.0, 0.0, 0.0, 0.25], F32)}
    yield Hard("−inf where an element's ε is 0", at(Z, ([0, 1], [0, 2]), -INF), LABELS, each)
    yield Hard("−inf with mass", at(Z, (1, 2), -INF), LABELS)
    yield Hard("−inf with mass, ε = 1", at(Z, (1, 2), -INF), LABELS, {"label_smoothing": 1.0})
    prior = {"class_mask": at(some, 3, False), "prior": np.array([0.25, 0.125, 0.125, 0.25, 0.25], F32)}
    yield Hard("no class behind an ignored label, prior", np.where(some, Z, NAN), IGNORED, prior)
    yield Hard("−inf at a label", at(Z, (1, 0), -INF), LABELS, {"label_smoothing": 0.0})
    yield Hard("−inf with mass, soft", at(Z, (2, 1), -INF), CORNERS, {"label_smoothing": 0.0})
    yield Hard("−inf everywhere but at the label, ε = 0", np.where(np.eye(5, dtype=bool)[LABELS], Z, -INF), LABELS, {
        "label_smoothing": 0.0})  # fmt: skip


def few_classes():
    yield Hard("one class", Z[:, :1].copy(), np.zeros(4, int))
    yield Hard("one class, soft", Z[:, :1].copy(), np.ones((4, 1), F32))
    yield Hard("one class, offset 1e8", shifted(1e8)[:, :1].copy(), np.array([0, -100, 0, 0]))
    yield Hard("two classes", Z[:, :2].copy(), np.array([0, 1, 1, 0]))
    two = {"convention": "others", "label_smoothing": 0.4}
    yield Hard("two classes, others, offset 1e8", shifted(1e8)[:, :2].copy(), np.array([0, 1, 1, 0]), two)
    yield Hard("two classes, one-hot", Z[:, :2].copy(), np.eye(2, dtype=F32)[[0, 1, 1, 0]])
    yield Hard("one element", Z[:1].copy(), LABELS[:1])
    yield Hard("one element without an axis", Z[0].copy(), LABELS[0])


def sizes():
    yield Hard("large class weights", Z, LABELS, {"weight": WEIGHTS * F32.type(1e30)})
    yield Hard("class weights from 0 to 1e6", Z, LABELS, {"weight": np.array([1e6, 0, 1e-6, 1, 1], F32)})
    yield Hard("class weights from 0 to 1e6, soft", Z, SOFT, {"weight": np.array([1e6, 0, 1e-6, 1, 1], F32)})
    yield Hard("weights from 1e-30 to 1e30", Z, LABELS, {"sample_weight": np.array([1, 1e-30, 1e30, 1e10], F32)})
    each = {"label_smoothing": np.array([0.0, 1.0, 0.1, 0.5], F32)}
    yield Hard("an ε for each, 0 and 1 among them", Z, LABELS, each, core=True)
    yield Hard("ε = 1", Z, LABELS, {"label_smoothing": 1.0})
    yield Hard("ε = 0", Z, LABELS, {"label_smoothing": 0.0})
    yield Hard("ε of 1e-30", Z, LABELS, {"label_smoothing": 1e-30})
    top = np.where(np.eye(5, dtype=bool)[LABELS], 3e38, -3e38).astype(F32)
    yield Hard("3e38 at the label, −3e38 elsewhere, ε = 0", top, LABELS, {"label_smoothing": 0.0})
    yield Hard("3e38", np.full((4, 5), 3e38, F32), LABELS)
    yield Hard("−3e38", np.full((4, 5), -3e38, F32), CORNERS)
    yield Hard("3e38 and 0", at(np.full((4, 5), 3e38, F32), ([0, 1, 2, 3], [1, 2, 4, 0]), 0.0), LABELS)
    yield Hard("1e38 apart", at(np.zeros((4, 5), F32), ([0, 1, 2, 3], [1, 2, 4, 0]), -1e38), CORNERS)
    yield Hard("below the normal numbers", (Z * F32.type(1e-40)).astype(F32), LABELS)
    apart = {"label_smoothing": 1.0, "prior": PRIOR}
    yield Hard("labels a million below, ε = 1, prior 0 there", column(Z, -1e6), np.full(4, 2), apart)
    yield Hard("labels a thousand below", at(Z, (np.arange(4), LABELS), -1000.0), LABELS)


def layouts():
    image = {"axis": 1}
    for layout in ("Fortran", "strided", "backwards", "read-only", "negative bit", "arrays beside tensors"):
        yield Hard(f"{layout}", Z, at(LABELS, 1, -100), {"weight": WEIGHTS, "prior": PRIOR}, layout=layout)
        yield Hard(
            f"{layout}, soft", Z, CORNERS, {"sample_weight": COUNTS, "class_mask": np.ones(5, bool)}, layout=layout
        )
        yield Hard(f"{layout}, plain", Z, LABELS, layout=layout)
    for layout in ("Fortran", "strided", "classes last in memory", "negative bit"):
        yield Hard(f"{layout}, images", IMAGE, IMAGE_LABELS, image, layout=layout)
    for_all, targets = np.broadcast_to(Z[:1], (4, 5)), np.broadcast_to(CORNERS[2:3], (4, 5))
    yield Hard("expanded", for_all, np.full(4, 3), layout="expanded")
    yield Hard("expanded, soft", for_all, targets, {"sample_weight": np.full(4, 2.0, F32)}, layout="expanded")
    yield Hard("all logits one number", np.full((4, 5), 0.5, F32), LABELS)
    for under in ("default device", "default dtype float64", "default dtype float16"):
        yield Hard(under, at(Z, 1, NAN), IGNORED, {"weight": WEIGHTS, "label_smoothing": 0.2}, under=under)
        yield Hard(f"{under}, soft", Z, CORNERS, {"prior": PRIOR, "z_loss": 1e-2}, under=under)
        yield Hard(f"{under}, plain", Z, LABELS, under=under)
        yield Hard(f"{under}, class mask", column(Z, NAN), LEFT, {"class_mask": MASK, "convention": KL}, under=under)


def integers():
    for dtype in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"):
        yield Hard(f"{dtype} labels", Z, LABELS.astype(dtype))
    yield Hard("int8 labels, one ignored", at(Z, 1, NAN), IGNORED.astype(np.int8))
    yield Hard("uint8 labels, 255 ignored", at(Z, 1, NAN), at(LABELS, 1, 255).astype(np.uint8), {"ignore_index": 255})


ROWS = {row.name: row for row in rows()}
