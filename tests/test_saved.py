"""What the caller writes to between forward and backward is refused, or does not matter; it is never silently used."""

import pytest
from requirements import need

import multismooth

torch = need("torch")
import multismooth.torch as ms  # noqa: E402 torch may be missing

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
OTHERS = torch.tensor([4, 3, 2, 1, 0, 1])
SOME = torch.tensor([1, 1, 1, 1, 0]).bool()
ROWS = torch.softmax(torch.arange(30.0, dtype=torch.float64).sin().reshape(6, 5), 1)


def each(value):
    return torch.full((6,), value, dtype=torch.float64)


INPUTS = {  # name: (arguments of a call, the argument that is written to, what it becomes)
    "labels": (lambda: {"targets": LABELS.clone()}, "targets", OTHERS),
    "ignored labels": (lambda: {"targets": LABELS.where(LABELS != 2, -100)}, "targets", OTHERS),
    "int32 labels": (lambda: {"targets": LABELS.int()}, "targets", OTHERS),
    "soft rows": (lambda: {"targets": ROWS.clone()}, "targets", ROWS.flip(1)),
    "class weights": (lambda: {"weight": torch.ones(5, dtype=torch.float64)}, "weight", torch.arange(1.0, 6.0)),
    "prior": (lambda: {"prior": torch.full((5,), 0.2, dtype=torch.float64)}, "prior", torch.eye(5)[0]),
    "a prior per class": (lambda: {"prior": torch.full((5, 5), 0.2, dtype=torch.float64)}, "prior", torch.eye(5)),
    "class mask": (lambda: {"targets": LABELS % 4, "class_mask": SOME.clone()}, "class_mask", ~SOME),
    "a mask per element": (
        lambda: {"targets": LABELS % 4, "class_mask": SOME.expand(6, 5).clone()}, "class_mask", torch.ones(6, 5).bool(),
    ),
    "ε": (lambda: {"label_smoothing": each(0.1)}, "label_smoothing", each(0.4)),
    "sample weights": (lambda: {"sample_weight": each(0.5)}, "sample_weight", torch.arange(6.0)),
    "a padding mask": (lambda: {"sample_weight": LABELS < 9}, "sample_weight", LABELS > 2),
    "normalizer": (lambda: {"normalizer": torch.tensor(3.0).double()}, "normalizer", torch.tensor(9.0)),
    "z_loss": (lambda: {"z_loss": torch.tensor(0.1).double()}, "z_loss", torch.tensor(9.0)),
}  # fmt: skip


def of_logits(z, targets, **settings):
    return ms.loss(z, targets, **settings)


def of_a_head(z, targets, **settings):
    classifier = torch.eye(5, dtype=torch.float64).requires_grad_()
    return ms.linear_loss(z, classifier, targets, chunk_rows=2, **settings)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kernels", [(), ("chunked", "whole"), ("whole",)], ids=lambda names: "-".join(names[:1]))
@pytest.mark.parametrize("call", [of_logits, of_a_head])
def test_an_argument_that_is_written_to_before_backward(name, kernels, call):
    make, argument, becomes = INPUTS[name]
    logits = torch.randn(6, 5, dtype=torch.float64)

    def gradient(written, again, reduction):
        arguments = {"targets": LABELS.clone(), "reduction": reduction} | make()
        z = logits.clone().requires_grad_()
        with multismooth.implementation(*kernels):
            loss = call(z, **arguments).sum()
        if again:
            loss.backward(retain_graph=True)
            z.grad = None
        if written:
            arguments[argument].copy_(becomes)
        loss.backward()
        return z.grad

    for reduction in ("mean", "none") if argument != "normalizer" else ("mean",):
        for again in (False, True):
            if again and reduction == "none" and call is of_a_head:
                continue  # the checkpoints of a head's elements serve once
            expected = gradient(False, again, reduction)
            try:
                found = gradient(True, again, reduction)
            except RuntimeError as error:
                if "modified by an in" not in str(error):
                    raise
                continue
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("upstream", [1.0, 0.5])
def test_logits_that_are_written_to_before_backward_do_not_matter(dtype, upstream):
    """As in PyTorch, whose loss keeps log p: the gradient is there already."""

    def gradient(loss, written):
        hidden = torch.linspace(-2, 2, 30).reshape(6, 5).to(dtype).requires_grad_()
        out = hidden * 1.0
        value = loss(out, LABELS)
        if written:
            out.detach().div_(2)
        (value * upstream).backward()
        return hidden.grad

    for loss in (ms.loss, ms.cross_entropy, ms.CrossEntropyLoss(label_smoothing=0.1)):
        torch.testing.assert_close(gradient(loss, True), gradient(loss, False), rtol=0, atol=0)


def test_logits_that_are_written_to_before_a_second_backward_are_refused():
    out = torch.randn(6, 5, requires_grad=True) * 1.0
    loss = ms.loss(out, LABELS)
    loss.backward(retain_graph=True)
    out.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_a_head_whose_classifier_was_stepped_before_backward():
    """Its gradients are there already for a sum; the plain text, which makes its logits again, refuses."""
    hidden, classifier = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    expected = torch.autograd.grad(ms.linear_loss(hidden, classifier, LABELS), hidden)[0]
    loss, each = (
        ms.linear_loss(hidden, classifier, LABELS),
        ms.linear_loss(hidden, classifier, LABELS, reduction="none"),
    )
    classifier.detach().mul_(2)
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], expected)
    with pytest.raises(RuntimeError, match="modified by an in"):
        each.sum().backward()
