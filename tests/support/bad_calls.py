"""Calls that are refused, each with its error and what the text must say, for every backend (and some for one)."""

from typing import Any, NamedTuple

import numpy as np

from multismooth import Convention, LabelError, SmoothingError, TargetError

LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 1.0, 3.0], [0.3, -0.2, 0.9], [1.5, 0.2, 0.1]])
LABELS = np.array([0, 2, 1, 0])
ROWS = np.array([[1.0, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
HIDDEN, CLASSIFIER = np.arange(20.0).reshape(4, 5) / 20, np.arange(15.0).reshape(3, 5) / 15
IMAGES, MAPS = np.linspace(-1, 1, 96).reshape(2, 3, 4, 4), np.arange(32).reshape(2, 4, 4) % 3
NAN = float("nan")
TWO_DIVISORS = Convention(smooth_denominator="counted")

# What a call has besides the arguments of its case.
USUAL: dict[str, dict[str, Any]] = {
    "loss": {"logits": LOGITS, "targets": LABELS},
    "terms": {"logits": LOGITS, "targets": LABELS},
    "loss_and_grad": {"logits": LOGITS, "targets": LABELS},
    "smooth_targets": {"targets": LABELS, "num_classes": 3},
    "linear_loss": {"hidden": HIDDEN, "classifier": CLASSIFIER, "targets": LABELS},
    "smoothing_correction": {"hidden": HIDDEN, "classifier": CLASSIFIER, "targets": LABELS},
    "binary_loss": {"logits": LOGITS, "targets": ROWS},
    "focal_loss": {"logits": LOGITS, "targets": LABELS},
    "confidence_penalty": {"logits": LOGITS, "targets": LABELS},
    "margin_smoothing": {"logits": LOGITS, "targets": LABELS},
    "distillation_loss": {"logits": LOGITS, "teacher_logits": 2 * LOGITS, "targets": LABELS, "temperature": 2.0},
    "normalizer": {"targets": LABELS, "num_classes": 3},
    "unigram_prior": {"targets": LABELS, "num_classes": 3},
}


class Bad(NamedTuple):
    name: str
    error: type[Exception]
    match: str
    arguments: dict[str, Any]
    function: str = "loss"

    def __str__(self):
        return f"{self.function}: {self.name}"


def case(name, error, match, function="loss", **arguments):
    return Bad(name, error, match, {**USUAL[function], **arguments}, function)


def masked(array, where=1):
    """The array with one entry masked."""
    mask = np.zeros(np.shape(array), bool)
    mask.flat[where] = True
    return np.ma.masked_array(array, mask)


LOSS = [
    case("regression", TargetError, r"`targets`: expected integer labels.*floating values of shape \(4,\)", targets=LABELS * 0.37),
    case("float class ids", TargetError, r"Cast class ids to integers", targets=LABELS * 1.0),
    case("float (N, 1)", TargetError, r"regression", targets=LABELS[:, None] * 1.0),
    case("rows that sum to 2", TargetError, r"sum 2 .*normalise", targets=2 * ROWS),
    case("negative rows", TargetError, r"smallest entry -1", targets=np.array([[2.0, -1, 0]] + [[1.0, 0, 0]] * 3)),
    case("label K", LabelError, r"\[0, 3\).*got 3 at \(1,\).*start at 0", targets=np.array([0, 3, 1, 0])),
    case("label −1", LabelError, r"got -1 at \(2,\).*pass ignore_index=-1", targets=np.array([0, 2, -1, 0])),
    case("label 255", LabelError, r"got 255 at \(0,\) and 1 more.*pass ignore_index=255", targets=np.array([255, 2, 255, 0])),
    case("label −100 not ignored", LabelError, r"got -100", targets=np.array([0, -100, 1, 0]), ignore_index=-1),
    case("no label is special", LabelError, r"got -100", targets=np.array([0, -100, 1, 0]), ignore_index=None),
    case("int one-hot", TargetError, r"One-hot rows must be floating or boolean", targets=ROWS[[0, 1, 0, 1]].astype(int)),
    case("(N, 1) labels", TargetError, r"squeeze\(-1\)", targets=LABELS[:, None]),
    case("too few labels", TargetError, r"shape \(4,\).*got shape \(2,\)", targets=LABELS[:2]),
    case("ε NaN", SmoothingError, r"`label_smoothing`: expected a number in \[0, 1\]; got nan", label_smoothing=NAN),
    case("ε −3", SmoothingError, r"got -3", label_smoothing=-3.0),
    case("ε 1.5", SmoothingError, r"got 1.5", label_smoothing=1.5),
    case("ε True", SmoothingError, r"got True", label_smoothing=True),
    case("ε a word", SmoothingError, r"got 'high'", label_smoothing="high"),
    case("ε per token", SmoothingError, r"got -0.1 at \(1,\)", label_smoothing=np.array([0.1, -0.1, 0, 0])),
    case("ε of a wrong shape", ValueError, r"broadcasts to the elements \(4,\)", label_smoothing=np.array([0.1, 0.2])),
    case("probabilities", ValueError, r"look like probabilities.*before the softmax", logits=np.full((4, 3), [0.2, 0.3, 0.5])),
    case("integer logits", ValueError, r"`logits`: expected a floating dtype", logits=np.ones((4, 3), int)),
    case("no axis", ValueError, r"`logits`: expected at least one axis", logits=np.array(1.0), targets=np.array(0)),
    case("weight shape", ValueError, r"`weight`: expected shape \(3,\)", weight=np.ones(4)),
    case("weight sign", ValueError, r"`weight`.*got -1 at \(1,\)", weight=np.array([1.0, -1, 1])),
    case("prior shape", ValueError, r"`prior`: expected shape \(3,\) or \(3, 3\)", prior=np.ones(2) / 2),
    case("prior sum", ValueError, r"`prior`.*sum 1.5", prior=np.full(3, 0.5)),
    case("prior with others", ValueError, r'`prior`.*spread "others"', prior=np.full(3, 1 / 3), convention="others"),
    case("prior and mask apart", ValueError, r"`prior`.*`class_mask`", prior=np.array([0, 0, 1.0]), class_mask=np.array([True, True, False]), targets=LABELS * 0),
    case("mask dtype", ValueError, r"`class_mask`: expected booleans", class_mask=np.ones(3)),
    case("mask shape", ValueError, r"`class_mask`: expected a shape", class_mask=np.ones((2, 3), bool)),
    case("no class exists", ValueError, r"`class_mask`: expected at least one", class_mask=np.zeros(3, bool)),
    case("masked label", LabelError, r"`class_mask` lets exist; got 2 at \(1,\)", class_mask=np.array([True, True, False])),
    case("masked soft mass", TargetError, r"mass 1 at \(1, 2\)", targets=ROWS, class_mask=np.array([True, True, False])),
    case("sample_weight sign", ValueError, r"`sample_weight`.*-2", sample_weight=np.array([1.0, -2, 1, 1])),
    case("sample_weight shape", ValueError, r"`sample_weight`: expected a shape", sample_weight=np.ones(3)),
    case("convention", ValueError, r"Did you mean 'torch'", convention="torhc"),
    case("reduction", ValueError, r"`reduction`: expected \"mean\", \"sum\" or \"none\"; got 'average'", reduction="average"),
    case("normalizer without mean", ValueError, r"`normalizer`.*reduction='sum'", normalizer=3, reduction="sum"),
    case("negative normalizer", ValueError, r"`normalizer`.*got -3", normalizer=-3),
    case("negative z_loss", ValueError, r"`z_loss`.*got -1", z_loss=-1.0),
    case("a cap of 0", ValueError, r"`logit_softcap`: expected a finite number > 0; got 0", logit_softcap=0.0),
    case("a cap for each class", ValueError, r"`logit_softcap`: expected a number or a 0-d", logit_softcap=np.ones(3)),
    case("a negative cap", ValueError, r"`logit_softcap`.*got -3", logit_softcap=np.array(-3.0, np.float32)),
    case("axis", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 2", axis=2),
    case("validate", ValueError, r"`validate`: expected None, True or False", validate="yes"),
    case("ignore_index", ValueError, r"`ignore_index`: expected an integer or None", ignore_index=1.5),
    case("classes on axis 1", TargetError, r"Pass axis=1\.", logits=np.zeros((2, 3, 5)), targets=np.zeros((2, 5), int)),
    case("T equal to C", ValueError, r"which fit axis 1 and axis -1. Pass axis=1 or axis=-1", logits=np.zeros((2, 4, 4)), targets=np.zeros((2, 4), int)),
]  # fmt: skip


B, T = np.array([True, True, False]), np.array(["2026-01-01"] * 4, "datetime64[D]")

CONTAINERS = [
    case("masked targets", TargetError, r"targets\.filled\(0\), and sample_weight=~targets\.mask", targets=masked(LABELS)),
    case("masked logits", ValueError, r"logits\.filled\(0\), and sample_weight= .* class_mask=", logits=masked(LOGITS)),
    case("masked weights", ValueError, r"`weight`.*weight\.filled\(0\)\.$", weight=masked(np.ones(3))),
    case("masked prior", ValueError, r"`prior`.*filled", prior=masked(np.ones(3) / 3)),
    case("masked class mask", ValueError, r"`class_mask`.*filled", class_mask=masked(np.ones(3, bool))),
    case("masked sample weights", ValueError, r"`sample_weight`.*filled", sample_weight=masked(np.ones(4))),
    case("masked ε", SmoothingError, r"`label_smoothing`.*filled", label_smoothing=masked(np.full(4, 0.1))),
    case("the masked constant", SmoothingError, r"`label_smoothing`.*filled", label_smoothing=np.ma.masked),
    case("a list with something masked", TargetError, r"sample_weight=~targets\.mask", targets=[0, np.ma.masked, 1, 0]),
    case("a list of masked arrays", TargetError, r"targets\.filled", targets=[masked([1, 0, 0], 2)] * 4),
    case("masked normalizer", ValueError, r"`normalizer`.*filled", normalizer=masked(3.0, 0)),
    case("masked z_loss", ValueError, r"`z_loss`.*filled", z_loss=masked(0.1, 0)),
    case("masked hidden", ValueError, r"hidden\.filled\(0\), and sample_weight=", "linear_loss", hidden=masked(HIDDEN)),
    case("masked classifier", ValueError, r"classifier\.filled\(0\)\.$", "linear_loss", classifier=masked(CLASSIFIER)),
    case("masked bias", ValueError, r"bias\.filled\(0\)\.$", "linear_loss", bias=masked(np.zeros(3))),
    case("masked targets of a head", TargetError, r"sample_weight=~targets", "linear_loss", targets=masked(LABELS)),
    case("masked hidden of a correction", ValueError, r"hidden\.filled", "smoothing_correction", hidden=masked(HIDDEN)),
    case("masked labels to smooth", TargetError, r"targets\.filled", "smooth_targets", targets=masked(LABELS)),
    case("masked entries", TargetError, r"sample_weight=~targets\.mask", "binary_loss", targets=masked(ROWS)),
    case("masked scores", ValueError, r"logits\.filled", "binary_loss", logits=masked(LOGITS)),
    case("masked pos_weight", ValueError, r"pos_weight\.filled", "binary_loss", pos_weight=masked(np.ones(3))),
    case("masked entries' weights", ValueError, r"sample_weight\.filled", "binary_loss", sample_weight=masked(ROWS)),
    case("masked targets of terms", TargetError, r"targets\.filled", "terms", targets=masked(LABELS)),
    case("masked logits of a gradient", ValueError, r"logits\.filled", "loss_and_grad", logits=masked(LOGITS)),
]  # fmt: skip

UNREADABLE = [
    case("no targets", TargetError, r"`targets`: expected .*Number the classes from 0", targets=None),
    case("names", TargetError, r"`targets`: expected .*np\.unique\(names", targets=["cat", "dog", "cat", "cow"]),
    case("an array of names", TargetError, r"`targets`: expected .*np\.unique\(names", targets=np.array(["a", "b", "a", "c"])),
    case("objects", TargetError, r"`targets`: expected .*ignore_index", targets=np.array([0, None, 1, 2], object)),
    case("dates", TargetError, r"`targets`: expected .*Number the classes", targets=T),
    case("complex targets", TargetError, r"`targets`: expected .*complex", targets=LABELS * 1j),
    case("ragged targets", TargetError, r"`targets`: expected an array of numbers; got list \(", targets=[[1], [1, 2]]),
    case("a set", TargetError, r"`targets`: expected .*Number the classes", targets={0, 1}),
    case("weights by name", ValueError, r"`weight`: expected .*Convert", weight=["a", "b", "c"]),
    case("ragged weights", ValueError, r"`weight`: expected an array of numbers; got list \(", weight=[[1], [1, 2]]),
    case("complex weights", ValueError, r"`weight`: expected real numbers; got dtype .*complex", weight=np.ones(3) * 1j),
    case("complex sample weights", ValueError, r"`sample_weight`: expected real numbers", sample_weight=np.ones(4) * 1j),
    case("complex prior", ValueError, r"`prior`: expected real numbers", prior=np.ones(3) / 3 + 0j),
    case("complex ε", ValueError, r"`label_smoothing`: expected real numbers", label_smoothing=np.full(4, 0.1j)),
    case("complex logits", ValueError, r"`logits`: expected a floating dtype; got .*complex", logits=LOGITS * 1j),
    case("a complex z_loss", ValueError, r"`z_loss`: expected real numbers", z_loss=np.array(1j)),
    case("objects as logits", ValueError, r"`logits`: expected", logits=LOGITS.astype(object)),
    case("dates to smooth", TargetError, r"Number the classes", "smooth_targets", targets=T),
    case("names in binary_loss", TargetError, r"Number the classes", "binary_loss", targets=["a", "b"]),
]  # fmt: skip

SHAPES = [
    case("maps (N, 1, H, W)", TargetError, r"squeeze\(1\)\. Pass axis=1", logits=IMAGES, targets=MAPS[:, None]),
    case("maps (N, 1, H, W), axis said", TargetError, r"squeeze\(1\)\.$", logits=IMAGES, targets=MAPS[:, None], axis=1),
    case("floating maps", TargetError, r"Cast class ids .*Pass axis=1", logits=IMAGES, targets=MAPS * 1.0),
    case("floating maps (N, 1, H, W)", TargetError, r"Cast .*squeeze\(1\)\. Pass axis=1", logits=IMAGES, targets=MAPS[:, None] * 1.0),
    case("maps with a last axis", TargetError, r"squeeze\(-1\)\.$", logits=IMAGES.transpose(0, 2, 3, 1), targets=MAPS[..., None]),
    case("flat labels", TargetError, r"targets\.reshape\(\(2, 6\)\)", logits=np.zeros((2, 6, 3)), targets=np.zeros(12, int)),
    case("flat logits", TargetError, r"targets\.reshape\(\(12,\)\)", logits=np.zeros((12, 3)), targets=np.zeros((2, 6), int)),
    case("boolean rows of another shape", TargetError, r"boolean values of shape \(4, 2\)", targets=ROWS[:, :2] > 0),
    case("a weight for each element", ValueError, r"`weight`.*sample_weight=", weight=np.ones((4, 1))),
    case("weights as a row", ValueError, r"weight\.reshape\(3\)", weight=np.ones((1, 3))),
    case("sample weights (N, 1)", ValueError, r"sample_weight\.reshape\(\(4,\)\)", sample_weight=np.ones((4, 1))),
    case("a sample weight for each image", ValueError, r"sample_weight\.reshape\(\(2, 1, 1\)\)", logits=IMAGES, targets=MAPS, axis=1, sample_weight=np.ones(2)),
    case("ε (N, 1)", ValueError, r"label_smoothing\.reshape\(\(4,\)\)", label_smoothing=np.full((4, 1), 0.1)),
    case("a prior for each element", ValueError, r"`prior`.*soft target", prior=np.full((4, 3), 1 / 3)),
    case("no class", ValueError, r"`logits`: expected at least one class.*axis=", logits=np.zeros((4, 0))),
    case("binary labels (N, 1)", TargetError, r"targets\.reshape\(\(4,\)\)", "binary_loss", logits=LOGITS[:, 0], targets=ROWS[:, :1]),
    case("class labels in binary_loss", TargetError, r"belong to loss", "binary_loss", targets=LABELS),
    case("classifier (D, K)", ValueError, r"`classifier`: expected \(K, 5\).*Transpose it", "linear_loss", classifier=CLASSIFIER.T),
    case("a classifier of one axis", ValueError, r"`classifier`.*a row for each class", "linear_loss", classifier=CLASSIFIER[0]),
    case("bias of another head", ValueError, r"`bias`: expected shape \(3,\)", "linear_loss", bias=np.zeros(5)),
    case("rows of another K", TargetError, r"3 classes on axis -1.*num_classes", "smooth_targets", targets=np.full((2, 4), 0.25)),
]  # fmt: skip

VALUES = [
    case("no reduction", ValueError, r"`reduction`: .*got None\. .*\"none\"", reduction=None),
    case("no reduction of a gradient", ValueError, r"`reduction`: .*got None", "loss_and_grad", reduction=None),
    case("no reduction of a head", ValueError, r"`reduction`: .*got None", "linear_loss", reduction=None),
    case("no reduction of binary_loss", ValueError, r"`reduction`: .*got None", "binary_loss", reduction=None),
    case("no spread of binary_loss", ValueError, r"`spread`: .*ε/2", "binary_loss", spread="others"),
    case("no label_mean", ValueError, r"`label_mean`: .*weight=", "binary_loss", label_mean=1),
    case("labels of one axis", ValueError, r"`axis`: .*axis=0", "binary_loss", logits=LOGITS[:, 0], targets=ROWS[:, 0], label_mean=True),
    case("a target that is ignored", ValueError, r"`ignore_index`: .*outside \[0, 1\]", "binary_loss", ignore_index=0),
    case("a target that is half ignored", ValueError, r"`ignore_index`: .*integer", "binary_loss", ignore_index=0.5),
    case("weights of too many labels", ValueError, r"`weight`: .*\(3,\)", "binary_loss", weight=np.ones(4)),
    case("a negative weight of a label", ValueError, r"`weight`: expected finite numbers ≥ 0; got -1", "binary_loss", weight=np.array([1.0, -1, 1])),
    case("a word of torch's", ValueError, r"`reduction`", "binary_loss", reduction="batchmean"),
    case("infinite sample weight", ValueError, r"`sample_weight`: expected finite numbers ≥ 0; got inf at \(2,\)", sample_weight=np.array([1, 1, np.inf, 1])),
    case("infinite normalizer", ValueError, r"`normalizer`: expected a finite number ≥ 0; got inf\. ", normalizer=np.array(np.inf)),
    case("a yes as normalizer", ValueError, r"`normalizer`: expected a number or a 0-d array", normalizer=True),
    case("normalizers", ValueError, r"`normalizer`: expected a number or a 0-d array; got shape \(4,\)", normalizer=np.ones(4)),
    case("booleans as ε", SmoothingError, r"`label_smoothing`: .*the amount", label_smoothing=np.ones(4, bool)),
    case("the 0-d array 1.5", SmoothingError, r"got 1.5", label_smoothing=np.array(1.5)),
    case("mask of 0 and 1", ValueError, r"`class_mask`: expected booleans.*class_mask != 0", class_mask=np.ones(3, np.uint8)),
    case("mask and exclude leave nothing", ValueError, r"`class_mask`: .*`class_mask` and `convention`", class_mask=B, convention=Convention(exclude=(0, 1)), targets=np.full((4, 3), [0, 1.0, 0])),
    case("everything excluded", ValueError, r"`convention`: .*exclude=\(0, 1, 2\) of 3", convention=Convention(exclude=(0, 1, 2)), targets=ROWS),
    case("no prior where mask and exclude leave classes", ValueError, r"`prior`: .*`class_mask` and `convention`", prior=np.array([0.5, 0, 0.5]), class_mask=B, convention=Convention(exclude=(0,)), targets=LABELS * 0 + 1),
    case("no prior in a row of a label that occurs", ValueError, r"`prior`: .* at \(0,\)", prior=np.array([[0, 0, 1.0], [1, 0, 0], [0, 0, 1]]), class_mask=B, targets=LABELS * 0),
    case("no prior in the mixture of a soft row", ValueError, r"`prior`: .* at \(0,\)", prior=np.array([[0, 0, 1.0], [1, 0, 0], [0, 0, 1]]), class_mask=B, targets=np.full((4, 3), [1.0, 0, 0])),
    case("rows of a prior under nll_only", ValueError, r"`prior`: .*nll_only", prior=np.eye(3), convention=Convention(ignore_scope="nll_only")),
    case("a convention that the caller divides", ValueError, r"`normalizer`: .*Pass normalizer=", convention=Convention(denominator="caller")),
    case("an excluded label", LabelError, r"`convention` lets exist; got 0 at \(0,\)", convention=Convention(exclude=(0,))),
    case("a number as convention", ValueError, r"`convention`: .*list\(multismooth.conventions\)", convention=3),
    case("a convention that is none", ValueError, r"`convention`: .*Why: ", convention="keras-focal"),
    case("axis of NumPy's bools", ValueError, r"`axis`: expected an integer", axis=np.bool_(True)),
    case("axis of a head", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 5\. .*feature axis", "linear_loss", axis=5),
    case("axis of a head, a float", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 1.0", "linear_loss", axis=1.0),
    case("axis of rows", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 2", "smooth_targets", axis=2),
    case("axis of rows, a word", ValueError, r"`axis`: expected an integer in \[-2, 2\); got 'last'", "smooth_targets", axis="last"),
    case("an ignored label that no label can be", ValueError, r"`ignore_index`: .*small negative", ignore_index=2**63),
    case("validate=1", ValueError, r"`validate`: expected None, True or False; got 1\. ", validate=1),
    case("validate in binary_loss", ValueError, r"`validate`: ", "binary_loss", validate="yes"),
    case("half a class", ValueError, r"`num_classes`: expected an integer ≥ 1; got 2.5", "smooth_targets", num_classes=2.5),
    case("too few classes", LabelError, r"\[0, 2\)", "smooth_targets", num_classes=2),
    case("no rows at a time", ValueError, r"`chunk_rows`: expected an integer ≥ 1", "linear_loss", chunk_rows=0),
    case("another accumulator", ValueError, r"`accumulate`: expected \"float32\" or \"input\"", "linear_loss", accumulate="float16"),
    case("integer features", ValueError, r"`hidden`: expected a floating dtype.*order is hidden, classifier, targets", "linear_loss", hidden=np.ones((4, 5), int)),
    case("integer classifier", ValueError, r"`classifier`: expected a floating dtype", "linear_loss", classifier=np.ones((3, 5), int)),
    case("integer bias", ValueError, r"`bias`: expected a floating dtype", "linear_loss", bias=np.ones(3, int)),
    case("swapped", ValueError, r"`logits`: .*The order is logits, targets", logits=LABELS, targets=LOGITS),
    case("label of a head", LabelError, r"got 3", "linear_loss", targets=LABELS + 1),
    case("soft targets of a correction", ValueError, r"`targets`: expected integer labels; got soft.*Use linear_loss", "smoothing_correction", targets=ROWS),
    case("rows of a prior in a correction", ValueError, r"`prior`: .*Use linear_loss", "smoothing_correction", prior=np.eye(3)),
    case("two denominators in a correction", ValueError, r"`convention`: .*Use linear_loss", "smoothing_correction", convention="fastai"),
    case("1.5 of a class", TargetError, r"values in \[0, 1\]; got 1.5 at \(0, 0\)", "binary_loss", targets=np.full((4, 3), 1.5)),
    case("a negative pos_weight", ValueError, r"`pos_weight`: expected finite numbers ≥ 0; got -1", "binary_loss", pos_weight=np.array([1.0, -1, 1])),
    case("a gradient's place", ValueError, r"`out`: expected", "loss_and_grad", out=np.zeros((4, 2))),
]  # fmt: skip

ZERO = r"`normalizer`: expected a number > 0 where something is counted; got 0"
DIVISORS = [
    case("normalizer=0", ValueError, ZERO, normalizer=0),
    case("a 0-d normalizer of 0", ValueError, ZERO, normalizer=np.array(0)),
    case("normalizer=0 with soft targets", ValueError, ZERO, targets=ROWS, normalizer=0.0),
    case("normalizer=0 with something ignored", ValueError, ZERO, targets=np.array([-100, 0, -100, 1]), normalizer=0.0),
    case("normalizer=0 at ε = 1", ValueError, ZERO, normalizer=0, label_smoothing=1.0),
    case("normalizer=0 of a gradient", ValueError, ZERO, "loss_and_grad", normalizer=0),
    case("normalizer=0 of a head", ValueError, ZERO, "linear_loss", normalizer=0),
    case("normalizer=0 of a correction", ValueError, ZERO, "smoothing_correction", normalizer=0.0),
    case("normalizer=0 of binary_loss", ValueError, ZERO, "binary_loss", normalizer=0),
    case("labels whose classes weigh nothing", ValueError, r"`weight`: .*ignore_index", weight=np.array([0, 1.0, 1]), targets=LABELS * 0),
    case("the same with a z-loss alone", ValueError, r"`weight`: .*ignore_index", weight=np.array([0, 1.0, 1]), targets=LABELS * 0, z_loss=0.1, label_smoothing=0.0),
    case("the same in a head", ValueError, r"`weight`: .*ignore_index", "linear_loss", weight=np.array([0, 1.0, 1]), targets=LABELS * 0),
]  # fmt: skip

FOCAL, PENALTY, MARGIN, DISTILLATION = "focal_loss", "confidence_penalty", "margin_smoothing", "distillation_loss"
HALF_IGNORED = Convention(smooth_denominator="all", ignore_scope="nll_only")
BESIDE = [
    case("negative γ", ValueError, "`gamma`: expected a finite number ≥ 0; got -1", FOCAL, gamma=-1.0),
    case("a switch", ValueError, "`gamma`", FOCAL, gamma=True),
    case("γ of each", ValueError, "`gamma`: expected a number or a 0-d array", FOCAL, gamma=np.ones(4)),
    case("no modulation", ValueError, '`modulation`: expected "class" or "label"', FOCAL, modulation="pixel"),
    case("no label", TargetError, "`targets`: expected labels for", FOCAL, modulation="label", targets=ROWS),
    case(
        "half ignored", ValueError, "`modulation`: .*no probability", FOCAL, modulation="label", convention=HALF_IGNORED
    ),
    case("no β", ValueError, "`beta`: expected a finite number", PENALTY, beta=NAN),
    case("negative margin", ValueError, "`margin`: expected a finite number", MARGIN, margin=-0.1),
    case("no strength", ValueError, "`strength`: expected a finite number", MARGIN, strength=np.inf),
    case("no temperature", ValueError, "`temperature`: expected a finite number > 0", DISTILLATION, temperature=0.0),
    case("too hard", ValueError, r"`hard_weight`: expected a number in \[0, 1\]", DISTILLATION, hard_weight=1.5),
    case("no labels", ValueError, "`targets`: expected labels or", DISTILLATION, targets=None, hard_weight=0.5),
    case("no labels to smooth", ValueError, "`label_smoothing`: expected none", DISTILLATION, label_smoothing=0.1),
    case("no labels to weigh", ValueError, "`weight`: expected none", DISTILLATION, weight=np.ones(3)),
    case("other classes", ValueError, "`teacher_logits`: .*shape", DISTILLATION, teacher_logits=np.zeros((4, 5))),
    case(
        "probabilities",
        ValueError,
        "`teacher_logits`: expected unnormalised",
        DISTILLATION,
        teacher_logits=np.full((4, 3), 1 / 3),
    ),
    case(
        "an integer teacher",
        ValueError,
        "`teacher_logits`: expected a floating",
        DISTILLATION,
        teacher_logits=np.ones((4, 3), int),
    ),
    case("no class", LabelError, r"expected labels in \[0, 3\)", "unigram_prior", targets=np.array([0, 7])),
    case("no label", TargetError, "`targets`: expected integer labels", "unigram_prior", targets=np.array([0.5, 1.0])),
    case("negative count", ValueError, "`pseudo_count`: expected a finite", "unigram_prior", pseudo_count=-1),
    case(
        "nothing to count",
        ValueError,
        "`pseudo_count`: .* > 0",
        "unigram_prior",
        targets=np.array([-100]),
        pseudo_count=0,
    ),
    case("no classes", ValueError, "`num_classes`", "unigram_prior", num_classes=0),
    case("no class", LabelError, r"expected labels in \[0, 3\)", "normalizer", targets=np.array([0, 7])),
    case("two divisors", ValueError, "Σ loss and Σ weight", "normalizer", convention=TWO_DIVISORS),
    case("the caller's", ValueError, "only the caller has", "normalizer", convention=Convention(denominator="caller")),
]
ALL = [*LOSS, *CONTAINERS, *UNREADABLE, *SHAPES, *VALUES, *DIVISORS, *BESIDE]
