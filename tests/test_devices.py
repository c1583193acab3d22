"""Tensors on different devices: an error that names the argument, both devices and what to write. The meta device
stands for a GPU."""

import pytest
from requirements import need

torch = need("torch")
import multismooth.torch as ms  # noqa: E402

LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 2, 1, 0])
HIDDEN, CLASSIFIER = torch.zeros(4, 5), torch.zeros(3, 5)
LOSS = {"logits": LOGITS, "targets": LABELS}
HEAD = {"hidden": HIDDEN, "classifier": CLASSIFIER, "targets": LABELS}
BINARY = {"logits": LOGITS, "targets": LOGITS}
SETTINGS = {
    "weight": torch.ones(3),
    "prior": torch.ones(3) / 3,
    "class_mask": torch.ones(3, dtype=torch.bool),
    "sample_weight": torch.ones(4),
    "label_smoothing": torch.full((4,), 0.1),
}
CASES = [
    *[("loss", LOSS, name, value) for name, value in ({"targets": LABELS} | SETTINGS).items()],
    *[("terms", LOSS, name, value) for name, value in ({"targets": LABELS} | SETTINGS).items()],
    *[("loss_and_grad", LOSS, name, value) for name, value in ({"targets": LABELS, "out": LOGITS.clone()} | SETTINGS).items()],
    *[("linear_loss", HEAD, name, value) for name, value in ({"targets": LABELS, "classifier": CLASSIFIER, "bias": torch.ones(3)} | SETTINGS).items()],
    *[("smoothing_correction", HEAD, name, value) for name, value in {"targets": LABELS, "prior": SETTINGS["prior"]}.items()],
    *[("binary_loss", BINARY, name, value) for name, value in {"targets": LOGITS, "pos_weight": torch.ones(3), "sample_weight": torch.ones(4, 3)}.items()],
    *[("smooth_targets", {"targets": LABELS, "num_classes": 3}, name, SETTINGS[name]) for name in ("prior", "class_mask")],
]  # fmt: skip


@pytest.mark.parametrize(("function", "usual", "name", "value"), CASES, ids=[f"{f}-{n}" for f, _, n, _ in CASES])
def test_one_tensor_elsewhere(function, usual, name, value):
    elsewhere = {**usual, name: value.to("meta")}
    with pytest.raises(
        ValueError, match=rf"`{name}`: expected a tensor on cpu, .*; got one on meta\. Move it: {name}\.to\('cpu'\)\."
    ):
        getattr(ms, function)(**elsewhere)


@pytest.mark.parametrize("name", ["label_smoothing", "normalizer", "z_loss", "sample_weight"])
def test_a_plain_number_may_come_from_the_cpu(name):
    """A 0-d tensor on the CPU meets any device, as in PyTorch; a label does not."""
    meta = {"logits": LOGITS.to("meta"), "targets": LABELS.to("meta")}
    assert ms.loss(**meta, **{name: torch.tensor(0.1)}).is_meta
    with pytest.raises(ValueError, match=r"`targets`: expected a tensor on meta, .*got one on cpu"):
        ms.loss(LOGITS[0].to("meta"), LABELS[0])


def test_what_is_no_tensor_comes_to_the_logits():
    meta = {"logits": LOGITS.to("meta"), "targets": [0, 2, 1, 0]}
    assert ms.loss(**meta, weight=[1.0, 2, 3], sample_weight=[1, 1, 0, 1]).is_meta
