"""Every recorded call of the libraries in tests/golden is reproduced, loss and gradient, in every backend."""

import json
import warnings

import pytest
from adapters import ADAPTERS, NUMPY, marks
from golden_cases import FOLDER, cases

from multismooth import SmoothingWarning

RECORDED = 158
BACKENDS = [pytest.param(adapter, id=adapter.name, marks=marks(adapter)) for adapter in ADAPTERS if not adapter.slow]


@pytest.fixture(autouse=True)
def without_advice():
    """ε = 1, which ClassyVision gives to an ignored row, is worth a warning; here it is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmoothingWarning)
        yield


@pytest.mark.parametrize("adapter", BACKENDS)
def test_every_case_is_reproduced(adapter, capsys):
    gaps = {str(case): (*case.difference(adapter), case.tolerance) for case in cases().values()}
    wrong = {name: gap for name, gap in gaps.items() if max(gap[:2]) > gap[2]}
    with capsys.disabled():
        print(f"\n  {adapter.name}: {len(gaps) - len(wrong)} of {len(gaps)} recorded cases reproduced", end=" ")
    assert not wrong
    assert len(gaps) == RECORDED


def test_the_records_share_one_problem():
    """A record whose inputs were edited would only test itself."""
    texts = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
    assert len(texts) == 37
    assert len({json.dumps(record["inputs"], sort_keys=True) for record in texts.values()}) == 1
    assert {record["eps"] for record in texts.values()} == {0.1}


def test_a_wrong_record_would_be_noticed():
    """Another label, another ε or another weight moves every case that has it beyond its tolerance."""
    for case in cases().values():
        if case.params.get("target") in ("soft_targets", "multilabel"):
            continue
        for what in ("targets", "targets_ignored", "targets_minus1"):
            inputs = case.inputs | {what: [(case.inputs[what][0] + 1) % 5, *case.inputs[what][1:]]}
            changed = type(case)(**{**vars(case), "inputs": inputs})
            assert changed.reproduced(NUMPY) == (what != case.params.get("target", "targets")), (str(case), what)
