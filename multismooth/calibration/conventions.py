"""What two calibration errors can differ in, and the dialects of libraries as entries with a source."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

from multismooth.api.argument_checks import integer
from multismooth.errors import complain

Event = Literal["top_label", "class_wise", "pooled", "predicted_class", "class_1_or_top_label"]
Binning = Literal["width", "mass"]
Closed = Literal["right", "left"]
Norm = Literal["l1", "l2", "max"]
BinWeight = Literal["count", "equal"]
One = Literal["last", "own"]
CHOICES = {
    "event": get_args(Event),
    "binning": get_args(Binning),
    "closed": get_args(Closed),
    "norm": get_args(Norm),
    "bin_weight": get_args(BinWeight),
    "one": get_args(One),
}
EVENTS = {
    "top_label": "the predicted class is right, at its probability",
    "class_wise": "the label is class k, at p_k; (mean over k of error^p)^(1/p)",
    "pooled": "the label is class k, at p_k, all N·K in one set of bins",
    "predicted_class": "the predicted class is right; one error for each predicted class, then their mean",
    "class_1_or_top_label": "the label is class 1 where K = 2, else the predicted class is right",
}


@dataclass(frozen=True)
class ErrorConvention:
    """What a calibration error computes: which event, in which bins, with which norm.

        error = (Σ_b w_b · |accuracy_b − confidence_b|^p)^(1/p) over the bins b that hold something

    Args:
        bins: B, the number of bins.
        event: "top_label", "class_wise", "pooled", "predicted_class", "class_1_or_top_label", or a class index.
        binning: "width": edges i/B, as float64. "mass": sorted values in min(B, N) parts, the first N mod B one larger,
            edges halfway between neighbours, equal edges merged (Kumar et al. 2019).
        closed: "right": (lo, hi], and 0 in the first bin. "left": [lo, hi), and 1 in the last. "mass" is "right".
        norm: "l1" (p = 1), "l2" (p = 2), or "max", the largest gap, which is called MCE.
        bin_weight: "count": w_b = n_b/N. "equal": one over the number of bins that hold something.
        debias: with "l2", each bin's gap² loses a(1 − a)/(n − 1); bins of one sample count 0, and a negative sum is 0.
        one: p = 1 is in the "last" bin, or in a bin of its "own" after it (closed "left" only).
        name, source: of the registry's entries.

    >>> from multismooth.calibration import conventions
    >>> print(conventions["guo"].explain())
    guo: top_label, 15 bins of equal width (lo, hi], l1, weighted by count
      event: the predicted class is right, at its probability
      source: Guo et al. 2017, eq. 3 (arXiv:1706.04599); temperature_scaling.py, _ECELoss
    """

    bins: int = 15
    event: Event | int = "top_label"
    binning: Binning = "width"
    closed: Closed = "right"
    norm: Norm = "l1"
    bin_weight: BinWeight = "count"
    debias: bool = False
    one: One = "last"
    name: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        number = integer(self.bins)
        if number is None or number < 1:
            raise complain("bins", "an integer ≥ 1", repr(self.bins), "15 are usual.")
        object.__setattr__(self, "bins", number)
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            known = value in allowed if isinstance(value, str) else field == "event" and (integer(value) or 0) >= 0
            if not known or (not isinstance(value, str) and integer(value) is None):
                more = " or a class index" if field == "event" else ""
                raise complain(field, ", ".join(map(repr, allowed)) + more, repr(value), _similar(value, allowed))
        if not isinstance(self.debias, bool):
            raise complain("debias", "True or False", repr(self.debias), "It is whether, not how much.")
        if self.debias and self.norm != "l2":
            raise complain("debias", 'norm="l2"', f"norm={self.norm!r}", "Only squared gaps have this correction.")
        if self.binning == "mass" and self.closed != "right":
            raise complain("binning", 'closed="right", as "mass" has no other', repr(self), "Leave closed= out.")
        if self.one == "own" and self.closed != "left":
            raise complain("one", 'closed="left"', f"closed={self.closed!r}", "(lo, hi] has 1 in its last bin.")

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, without name and source."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("name", "source") and getattr(self, f.name) != f.default
        }

    def __str__(self) -> str:
        event = self.event if isinstance(self.event, str) else f"class {self.event}"
        interval = "(lo, hi]" if self.closed == "right" else "[lo, hi)"
        width = f"equal width {interval}" if self.binning == "width" else "equal mass"
        parts = [event, f"{self.bins} bins of {width}", self.norm]
        parts += ["debiased"] if self.debias else []
        parts += (
            []
            if self.norm == "max"
            else [f"weighted by {self.bin_weight}" if self.bin_weight == "count" else "bins weigh equally"]
        )
        parts += ["p = 1 in a bin of its own"] if self.one == "own" else []
        return (f"{self.name}: " if self.name else "") + ", ".join(parts)

    def explain(self) -> str:
        """The convention, its event and its source, in three lines."""
        event = EVENTS.get(self.event, f"the label is class {self.event}, at its probability")  # type: ignore[arg-type]
        lines = [str(self), f"  event: {event}"]
        return "\n".join(lines + ([f"  source: {self.source}"] if self.source else []))


def _similar(value, allowed):
    similar = get_close_matches(str(value).lower(), allowed, n=1)
    return f"Did you mean {similar[0]!r}?" if similar else f"{allowed[0]!r} is the usual one."


GUO = "Guo et al. 2017, eq. 3 (arXiv:1706.04599); temperature_scaling.py, _ECELoss"

ENTRIES: dict[str, dict[str, Any]] = {
    "guo": {"source": GUO},
    "torchcp": {"source": "TorchCP, torchcp/classification/trainer/ts_trainer.py, _ECELoss"},
    "focal_calibration": {"source": "focal_calibration, Metrics/metrics.py, ECELoss"},
    "pycalib_conf": {"source": "PyCalib 0.1.0.dev6, conf_ECE"},
    "uncertainty_calibration_ece": {"source": "uncertainty-calibration 0.1.4, get_ece"},
    "calzone": {"source": "calzone 0.1.0, calzone/metrics.py, calculate_ece_mce"},
    "mce": {"norm": "max", "source": "Guo et al. 2017, eq. 5 (arXiv:1706.04599)"},
    "left_closed": {"closed": "left", "source": "fd-shifts; TensorFlow Probability expected_calibration_error"},
    "torchmetrics": {"closed": "left", "one": "own", "source": "torchmetrics 1.9.0, _binning_bucketize"},
    "torchmetrics_l2": {
        "closed": "left",
        "one": "own",
        "norm": "l2",
        "source": "torchmetrics 1.9.0, norm='l2'",
    },
    "torchmetrics_max": {"closed": "left", "one": "own", "norm": "max", "source": "torchmetrics 1.9.0, 'max'"},
    "relplot": {"closed": "left", "one": "own", "source": "relplot 1.0.3, binnedECE"},
    "netcal": {"bins": 10, "event": "class_1_or_top_label", "closed": "left", "source": "netcal 1.4.0, ECE"},
    "netcal_mce": {
        "bins": 10,
        "event": "class_1_or_top_label",
        "closed": "left",
        "norm": "max",
        "source": "netcal 1.4.0, MCE",
    },
    "netcal_ace": {
        "bins": 10,
        "event": "class_1_or_top_label",
        "closed": "left",
        "bin_weight": "equal",
        "source": "netcal 1.4.0, ACE: the mean over the bins that hold something",
    },
    "kumar": {
        "binning": "mass",
        "norm": "l2",
        "debias": True,
        "source": "Kumar et al. 2019 (arXiv:1909.10155); uncertainty-calibration get_top_calibration_error",
    },
    "kumar_classwise": {
        "event": "class_wise",
        "binning": "mass",
        "norm": "l2",
        "debias": True,
        "source": "uncertainty-calibration 0.1.4, get_calibration_error, whose default mode is marginal",
    },
    "kumar_plugin": {"binning": "mass", "norm": "l2", "source": "uncertainty-calibration 0.1.4, plugin"},
    "adaptive": {"binning": "mass", "source": "uncertainty-calibration 0.1.4, get_ece_em"},
    "classwise": {
        "event": "class_wise",
        "source": "Kull et al. 2019 (arXiv:1910.12656); focal_calibration ClasswiseECELoss; Nixon's SCE",
    },
    "ace": {
        "event": "class_wise",
        "binning": "mass",
        "source": "Nixon et al. 2019 (arXiv:1904.01685), ACE; robustness_metrics",
    },
    "pooled": {"event": "pooled", "source": "PyCalib 0.1.0.dev6, ECE"},
    "predicted_class": {
        "event": "predicted_class",
        "source": "MAPIE 1.6.0, top_label_ece; its num_bins counts edges",
    },
    "class_1": {"event": 1, "source": "scikit-learn 1.9, calibration_curve and a mean weighted by count"},
}

conventions: Mapping[str, ErrorConvention] = MappingProxyType(
    {name: ErrorConvention(name=name, **entry) for name, entry in ENTRIES.items()}
)


def resolve(convention: str | ErrorConvention, **overrides: Any) -> ErrorConvention:
    """The convention of a name, with the keywords that are not None in place of its fields."""
    if isinstance(convention, str):
        if convention not in conventions:
            similar = get_close_matches(convention.lower(), conventions, n=3)
            remedy = f"Did you mean {', '.join(similar)}?" if similar else f"Known are {', '.join(conventions)}."
            raise complain("convention", "a name in calibration.conventions", repr(convention), remedy)
        convention = conventions[convention]
    if not isinstance(convention, ErrorConvention):
        remedy = 'Pass "guo", say; multismooth.Convention is that of a loss.'
        raise complain("convention", "a name or an ErrorConvention", type(convention).__name__, remedy)
    changed = {name: value for name, value in overrides.items() if value is not None}
    return replace(convention, **changed, name="", source="") if changed else convention
