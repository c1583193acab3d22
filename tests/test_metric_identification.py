"""Which calibration error is this: registered dialects, others, functions as people write them, what is none."""

from itertools import pairwise

import numpy as np
import pytest
from requirements import need

from multismooth import calibration
from multismooth.calibration import ErrorConvention, dialects, identification

ECE = calibration.expected_calibration_error
SETTINGS = [
    {},
    {"closed": "left"},
    {"closed": "left", "one": "own"},
    {"event": "class_1_or_top_label", "closed": "left", "bins": 10},
]
SETTINGS += [{"binning": "mass", "norm": "l2", "debias": True}, {"event": "class_wise"}, {"norm": "max"}]
SETTINGS += [{"bin_weight": "equal", "bins": 20}, {"event": "pooled"}, {"event": 1}, {"event": "predicted_class"}]


def test_every_entry_is_told_from_every_other_on_some_probe():
    entries = {str(ErrorConvention(**(e.settings | {"bins": 15}))): e for e in calibration.conventions.values()}
    probes = [(p, y) for _, p, y in identification.probes()] + [identification.edge_probe(15)]
    values = [
        [ECE(probs=p, targets=y, convention=ErrorConvention(**(e.settings | {"bins": 15}))) for p, y in probes]
        for e in entries.values()
    ]
    values += [[other.error(p, y, 15) for p, y in probes] for other in dialects.OTHERS.values()]
    gaps = np.abs(np.array(values)[:, None] - np.array(values)).max(-1) + np.eye(len(values))
    assert gaps.min() > 1e-4


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_a_convention_is_found(number):
    convention = ErrorConvention(**SETTINGS[number])
    found = calibration.identify(
        lambda probs, labels: ECE(probs=probs, targets=labels, convention=convention), "numpy", bins=convention.bins
    )
    assert found.convention == convention
    assert not found.remarks


def test_the_number_of_bins_is_found_and_so_is_percent():
    found = calibration.identify(lambda probs, labels: 100 * ECE(probs=probs, targets=labels, bins=25))
    assert found
    assert found.convention.bins == 25
    assert str(found).startswith("top_label, 25 bins of equal width (lo, hi], l1, weighted by count, percent")
    assert "guo" in found.names
    assert found.to_dict()["found"][0].endswith("percent")


@pytest.mark.parametrize("name", dialects.OTHERS)
def test_what_no_convention_says_is_found(name):
    found = calibration.identify(lambda p, y: dialects.OTHERS[name].error(p, y, 15), bins=15)
    assert [dialect.other for dialect in found.found] == [name]
    assert found.convention is None


def test_the_usual_script_of_torch():
    torch = need("torch")

    def script(probs, labels):
        confidence, predicted = probs.float().max(1)
        edges, error = torch.linspace(0, 1, 16), torch.zeros(1)
        for low, high in pairwise(edges):
            inside = confidence.gt(low.item()) & confidence.le(high.item())
            if inside.any():
                right = predicted[inside].eq(labels[inside]).float().mean()
                error += (confidence[inside].mean() - right).abs() * inside.float().mean()
        return error.item()

    found = calibration.identify(script, bins=15)
    assert found.convention == ErrorConvention()
    assert "its edges are not i/B in float64" in str(found)
    as_logits = calibration.identify(lambda z, y: script(z.softmax(1), y), bins=15, takes="logits")
    assert as_logits.convention == ErrorConvention()


def test_functions_of_rows_and_scikit_learns_recipe():
    calibration_curve = need("sklearn.calibration").calibration_curve

    def recipe(confidence, right):
        share, mean = calibration_curve(right, confidence, n_bins=10)
        count = np.histogram(confidence, np.linspace(0, 1, 11))[0]
        return np.average(np.abs(share - mean), weights=count[count > 0])

    found = calibration.identify(recipe, "numpy", bins=10, takes="rows")
    assert {dialect.convention.bins for dialect in found.found} == {10}
    assert found.convention.event == "top_label"


def test_real_libraries_are_found_by_their_names():
    from importlib import import_module

    metrics = need("torchmetrics.functional.classification")
    for norm, name in (("l1", "torchmetrics"), ("l2", "torchmetrics_l2"), ("max", "torchmetrics_max")):

        def metric(probs, labels, norm=norm):
            return metrics.multiclass_calibration_error(probs, labels, probs.shape[1], n_bins=15, norm=norm)

        assert name in calibration.identify(metric, "torch", bins=15).names
    need("calibration")  # the package uncertainty-calibration
    theirs = import_module("calibration")
    for function, name in (
        (theirs.get_ece, "uncertainty_calibration_ece"),
        (theirs.get_ece_em, "adaptive"),
        (theirs.get_top_calibration_error, "kumar"),
        (theirs.get_calibration_error, "kumar_classwise"),
    ):
        assert name in calibration.identify(function, "numpy", bins=15).names


def test_what_is_none_and_what_cannot_be_called():
    found = calibration.identify(lambda probs, labels: 0.3, bins=15)
    assert not found
    assert "none of the known dialects" in str(found)
    with pytest.raises(ValueError, match="a metric that can be called as function"):
        calibration.identify(lambda probs: 0.3, bins=15)
    with pytest.raises(ValueError, match="takes"):
        calibration.identify(ECE, takes="labels")
    with pytest.raises(ValueError, match="framework"):
        calibration.identify(ECE, "mxnet")

    def refuses_ties(probs, labels):
        if len(np.unique(probs.max(1))) < len(probs):
            raise ValueError("ties")
        return ECE(probs=probs, targets=labels, binning="mass")

    found = calibration.identify(refuses_ties, "numpy", bins=15)
    assert "ties" in found.remarks["equal confidences"]
    assert found
