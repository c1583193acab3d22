"""The recorded values in tests/golden, as calls of this library."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from multismooth import Convention

FOLDER = Path(__file__).parents[1] / "golden"
DENOMINATORS = {
    "rows": "all",
    "valid": "counted",
    "elements": "classes",
    "target_weight_sum": "target_weight",
    "mixture_weight_sum": "mixture_weight",
    "row_weight_sum": "counted",
    "nonzero_row_weight": "nonzero",
}
PER_SENTENCE = ("sentence_mean", "sentence_mean_all")
# These calls were made with the one-hot rows of the labels.
ONE_HOT = {("torch", "onehot_weight_mean"), ("monai", "ce_onehot_target_weight")}


@dataclass(frozen=True, eq=False)
class Case:
    """One recorded call: `library` is the name of its file."""

    library: str
    id: str
    params: dict
    inputs: dict
    tolerance: float
    loss: object
    gradient: np.ndarray

    def __str__(self):
        return f"{self.library}-{self.id}"

    @property
    def binary(self):
        return self.params.get("objective") == "bce"

    @property
    def sentences(self):
        return np.array(self.params.get("sentences", [3, 3]))

    def convention(self):
        """The Convention that the case's parameters describe (that of the softmax, for a sigmoid case)."""
        params = self.params
        own, square = (params.get(f"{term}_denominator") for term in ("smooth", "z_loss"))
        return Convention(
            name=str(self),
            spread="others" if params.get("spread") == "others" else "all",
            exclude=tuple(params.get("exclude", ())),
            objective="kl" if params.get("objective") == "kl" else "cross_entropy",
            class_weights=params.get("weight_mode", "per_term"),
            denominator=DENOMINATORS.get(params.get("denominator", "valid"), "caller"),
            smoothing_map=params.get("eps_map", "identity"),
            ignore_scope=params.get("ignore_scope", "all"),
            smooth_denominator=None if own is None else DENOMINATORS.get(own, "caller"),
            z_loss_denominator=None if square is None else DENOMINATORS.get(square, "caller"),
            denominator_add=params.get("denom_add", 0.0),
            denominator_floor=params.get("denom_floor"),
            scale=params.get("scale", 1.0),
        )

    def counted(self):
        """1 for rows that are not ignored, else 0."""
        kind, what = self.params.get("ignore", (None, None))
        if kind is None:
            return np.ones(6)
        return np.array(what) if kind == "mask" else (self.labels() != what).astype(float)

    def labels(self):
        return np.array(self.inputs[self.params.get("target", "targets")])

    def normalizer(self):
        """The number that only the caller has, where the recorded mean was divided by one; else None."""
        what = self.params.get("denominator")
        if what in ("sentences", "sentence_mean_all"):
            return len(self.sentences)
        if what == "sentence_mean":
            return int(np.count_nonzero(np.add.reduceat(self.counted(), np.cumsum(self.sentences) - self.sentences)))
        return what if isinstance(what, int | float) else None

    def call(self, convention):
        """(function, targets, settings): the case under a convention, which the call's own arguments complete."""
        params = self.params
        settings = {"label_smoothing": self.label_smoothing(), "reduction": params.get("reduction", "mean")}
        if self.binary:
            settings["spread"] = "all" if params["spread"] == "all" else "half"
            rows = self.labels() if "target" in params else np.eye(5)[self.labels()]
            if params.get("denominator") == "rows":  # summed over the classes
                settings["normalizer"] = len(rows)
            return "binary_loss", rows, settings
        targets = self.labels()
        settings |= {"convention": convention, "ignore_index": None}
        kind, what = params.get("ignore", (None, None))
        if kind == "value":
            settings["ignore_index"] = what
        if (self.library, self.id) in ONE_HOT:
            targets = np.eye(5)[targets]
        if params.get("class_weight"):
            settings["weight"] = np.array(self.inputs["class_weight"])
        if params.get("z_loss"):
            settings["z_loss"] = params["z_loss"]
        if params.get("spread") == "prior":
            settings["prior"] = np.array(self.inputs["prior"])
        if (rows := self.row_weights()) is not None:
            settings["sample_weight"] = rows
        number = self.normalizer()
        if settings["reduction"] == "mean" and (
            convention.denominator == "caller" or params.get("denominator") == number
        ):
            settings["normalizer"] = number
        return (
            "loss",
            targets,
            {key: value for key, value in settings.items() if key != "normalizer" or value is not None},
        )

    def label_smoothing(self):
        eps = self.params.get("eps", 0.1)
        if self.binary and self.params["spread"] == "flip":
            return 2 * eps  # 1 − ε and ε are ½-smoothed by 2ε
        return np.array(eps) if isinstance(eps, list) else eps

    def row_weights(self):
        """Row weights, the mask, and 1/length in means of sentences, multiplied; None for all 1."""
        rows = np.array(self.inputs["row_weight"]) if self.params.get("row_weight") else np.ones(6)
        if self.params.get("ignore", (None,))[0] == "mask":
            rows = rows * self.counted()
        if self.params.get("denominator") in PER_SENTENCE:
            starts = np.cumsum(self.sentences) - self.sentences
            lengths = np.maximum(np.add.reduceat(self.counted(), starts), 1)
            rows = rows / np.repeat(lengths, self.sentences)
        return None if (rows == 1).all() else rows

    def difference(self, adapter, convention=None):
        """(largest difference of the loss, of the gradient) between a backend and the record; NaN counts as infinite.

        convention: None is the one that the case's parameters describe.
        """
        function, targets, settings = self.call(convention or self.convention())
        logits = np.array(self.inputs["logits"])
        ones = np.ones(logits.shape if self.binary else logits.shape[:1])
        if adapter.autodiff_every:
            cotangent = ones if settings["reduction"] == "none" else None
            value, (slope,) = adapter.value_and_grad(function, logits, targets, cotangent=cotangent, **settings)
        elif self.binary:
            value, slope = adapter.call(function, logits, targets, **settings), self.gradient
        else:
            value, slope = adapter.call("loss_and_grad", logits, targets, **settings)
        loss = self.loss if self.loss is not None else value
        assert np.shape(value) == np.shape(loss)
        assert np.shape(slope) == np.shape(self.gradient)
        gaps = np.abs(np.asarray(value) - loss).max(), np.abs(slope - self.gradient).max()
        return tuple(float(np.nan_to_num(gap, nan=np.inf)) for gap in gaps)

    def reproduced(self, adapter, convention=None):
        """Whether loss and gradient are within the record's tolerance (1e-12 for pure float64)."""
        return max(self.difference(adapter, convention)) <= self.tolerance


@cache
def cases():
    """All recorded cases, by (library, id)."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for case in record["cases"]:
            found[path.stem, case["id"]] = Case(
                library=path.stem,
                id=case["id"],
                params=case["params"],
                inputs=record["inputs"],
                tolerance=case["tolerance"],
                loss=None if case["loss"] is None else np.array(case["loss"]),
                gradient=np.array(case["grad"]),
            )
    return found


# --- which records stand behind which name --------------------------------------------------------------------------

ALL = None
TIES = {
    "torch": {
        "torch": (
            "plain_mean", "ignore_mean", "ignore0_mean", "weight_mean", "weight_ignore_mean", "soft_mean",
            "soft_weight_mean", "plain_sum", "ignore_sum", "ignore0_sum", "weight_sum", "weight_ignore_sum", "soft_sum",
            "soft_weight_sum", "plain_none", "ignore_none", "ignore0_none", "weight_none", "weight_ignore_none",
            "soft_none", "soft_weight_none", "onehot_weight_mean",
        )
    },
    "others": {"fairseq2": ("mean",), "liger-kernel": ("vocab_parallel_megatron",)},
    "torch-kl-div": {"torch": ("kldiv_batchmean", "kldiv_sum")},
    "torch-kl-div-mean": {"torch": ("kldiv_mean",)},
    "optax": {"optax": ("none", "mean", "soft_mean", "where_rows_mean_over_all")},
    "optax-kl": {"optax": ("kl_mean",)},
    "optax-one-hot": {"optax": ("none", "mean", "soft_mean", "onehot_minus100_mean")},
    "flax-examples": {"flax-examples": ALL},
    "keras": {
        "keras-jax": ("mean", "sum", "none", "sample_weight_mean", "sample_weight_0_mean", "soft", "probs"),
        "keras-tensorflow": ("mean", "sample_weight"),
    },
    "keras-weighted": {"keras-jax": ("sample_weight_mean_with",)},
    "tensorflow-v1": {"tensorflow-v1-losses": ("default", "weights", "weights01")},
    "tensorflow-v1-mean": {"tensorflow-v1-losses": ("MEAN", "weights01")},
    "paddle": {"paddlepaddle": ("mean", "sum", "none", "weight_mean", "weight_sum", "soft_mean", "prior")},
    "paddle-ignore-index": {"paddlepaddle": ("ignore0_mean",)},
    "mlx": {"mlx": ALL},
    "tinygrad": {"tinygrad": ("sparse_ignore",)},
    "tinygrad-default": {"tinygrad": ("sparse_minus1_not_ignored", "cross_entropy_mean")},
    "mxnet": {"mxnet": ("null", "ignore_null", "ignore_batch")},
    "mxnet-valid": {"mxnet": ("ignore_valid",)},
    "liger": {
        "liger-kernel": (
            "ignore_mean", "weight_ignore_mean", "ignore_sum", "weight_ignore_sum", "ignore_none",
            "weight_ignore_none", "vocab_parallel_pytorch", "z_loss_ignore_mean", "z_loss_weight_ignore_mean",
            "z_loss_weight_ignore_sum", "z_loss_weight_ignore_none", "fused_linear_z_loss_weight_ignore_mean",
        )
    },
    "liger-megatron": {"liger-kernel": ("vocab_parallel_megatron",)},
    "flash-attn": {"flash-attn": ALL},
    "transformer-engine": {"transformer-engine": ALL},
    "apex": {"apex": ALL},
    "megatron-core": {"megatron-core": ALL},
    "transformers": {"transformers": ALL},
    "fairseq": {"fairseq": ("v0.12_sum_pad0", "v0.12_per_ntokens", "v0.12_noignore")},
    "fairseq-sentences": {"fairseq": ("v0.12_sum_pad0", "v0.12_per_sentence")},
    "fairseq-0.10": {"fairseq": ("v0.10.2_sum_pad0",)},
    "fairseq-nat": {"fairseq": ("nat_loss",)},
    "fairseq2": {"fairseq2": ALL},
    "tensor2tensor": {"tensor2tensor": ALL},
    "annotated-transformer": {"annotated-transformer": ALL},
    "opennmt-py": {"opennmt-py": ("v3_sum",)},
    "opennmt-py-2": {"opennmt-py": ("v2_sum",)},
    "opennmt-tf": {"opennmt-tf": ("batch",)},
    "opennmt-tf-tokens": {"opennmt-tf": ("average_in_time",)},
    "joeynmt": {"joeynmt": ALL},
    "marian": {"marian": ALL},
    "marian-words": {"marian": ALL},
    "t5x": {"t5x": ALL},
    "allennlp": {"allennlp": ("batch",)},
    "allennlp-tokens": {"allennlp": ("token", "token_alpha", "token_rowweights")},
    "nvidia-bart": {"nvidia-deeplearningexamples": ("bart",)},
    "nvidia-gnmt": {"nvidia-deeplearningexamples": ("gnmt",)},
    "espnet": {"espnet": ("batch",)},
    "espnet-length": {"espnet": ("length",)},
    "espnet-rnn": {"espnet-rnn-decoder": ALL},
    "timm": {"timm": ("LabelSmoothingCrossEntropy", "mixup_target+SoftTargetCrossEntropy")},
    "mmpretrain": {
        "mmpretrain": (
            "original", "original_class_weight", "original_sample_weight", "original_avg_factor", "original_sum"
        )
    },
    "mmpretrain-classy": {"mmpretrain": ("classy_vision",)},
    "classyvision": {"classyvision": ("mean",)},
    "fastai": {"fastai": ALL},
    "monai": {"monai": ALL},
    "big_vision": {"big_vision": ALL},
    "paddleclas": {"paddleclas": ALL},
    "nvidia-resnet": {"nvidia-deeplearningexamples": ("resnet", "mixup_soft")},
}  # fmt: skip


def behind(name):
    """The cases that a name of the registry must reproduce."""
    chosen = TIES.get(name, {})
    return [
        c for c in cases().values() if c.library in chosen and (chosen[c.library] is ALL or c.id in chosen[c.library])
    ]
