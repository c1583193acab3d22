"""The loss for Hugging Face's `Trainer`. Nothing of transformers is imported.

The Trainer calls it once for each micro-batch, and passes the number of items of the whole batch. Each micro-batch's
sum divided by that number adds up to the mean of the batch, however the padding is spread.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

from multismooth.api.options import DEFAULTS, TrainerOptions
from multismooth.api.public import unexpected
from multismooth.convention import Convention
from multismooth.errors import complain
from multismooth.registry import resolve
from multismooth.torch import loss as _torch_loss

__all__ = ["compute_loss"]

OPTIONS = ["label_smoothing", "convention", "shift", *TrainerOptions.__annotations__]
UNSHIFTED = ("Seq2Seq", "MaskedLM", "Classifier", "Segmenter", "MultipleChoice", "NextSentence")


def compute_loss(
    label_smoothing: Any = 0.1,
    convention: str | Convention = "torch",
    *,
    shift: bool = True,
    **options: Unpack[TrainerOptions],
) -> Callable[..., Any]:
    """A function for `Trainer(compute_loss_func=…)`: the smoothed loss of a batch, whatever the accumulation.

    Args:
        label_smoothing, convention: as in `multismooth.loss`. ε = 0.1 is the Trainer's `label_smoothing_factor=0.1`,
            and ε = 0 its loss without smoothing.
        shift: True for causal language models, whose logits at t predict the label at t + 1. False for sequence to
            sequence, masked language models and classification, and for labels that the collator has shifted.
        options: every other keyword of `multismooth.loss` (weight, prior, ignore_index, z_loss, axis, …).

    The function is called (outputs, labels, num_items_in_batch=None). Outputs are a ModelOutput, a dict with "logits",
    or a tuple that starts with them. With a number of items it is their divisor; without, the mean is the convention's.
    Leave the Trainer's `label_smoothing_factor` at 0: with a function it has no effect.

    Raises:
        TypeError: a misspelt option. ValueError: no labels; shift=True for outputs whose labels are aligned.

    >>> import torch
    >>> logits, labels = torch.zeros(2, 4, 7), torch.tensor([[1, 2, 3, 4], [1, 2, -100, -100]])
    >>> loss = compute_loss(label_smoothing=0.1)
    >>> round(loss({"logits": logits}, labels, num_items_in_batch=4).item(), 4)
    1.9459
    """
    for option in options:
        if option not in OPTIONS:
            raise unexpected("compute_loss", option, OPTIONS)
    if not isinstance(shift, bool):
        raise complain("shift", "True or False", repr(shift), "True for causal language models, False for all others.")
    given = {"label_smoothing": label_smoothing, "convention": resolve(convention), **options}
    return partial(_loss, shift, {"ignore_index": DEFAULTS["ignore_index"], **given})


def _loss(shift, options, outputs, labels, num_items_in_batch=None):
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if labels is None:
        remedy = "The Trainer takes them from the batch's entry 'labels': name it so, or set label_names."
        raise complain("labels", "the labels of the batch", "None", remedy)
    if shift:
        _refuse_aligned(outputs, logits, labels)
        logits, labels = _shifted(logits, labels, options["convention"], options["ignore_index"])
    if hasattr(num_items_in_batch, "ndim"):  # DataParallel: one equal count for each device
        num_items_in_batch = num_items_in_batch.flatten()[0].to(logits.device)
    return _torch_loss(logits, labels.to(logits.device), normalizer=num_items_in_batch, **options)


def _shifted(logits, labels, convention, ignore_index):
    """(logits, labels) of the same positions.

    Where ignored labels count for nothing, the last position gets one: logits without it would be copied, which takes
    three times as long as the loss.
    """
    denominators = {convention.denominator, convention.smooth_denominator, convention.z_loss_denominator}
    if labels.ndim == logits.ndim:
        return logits[..., :-1, :], labels[..., 1:, :]
    if ignore_index is None or convention.ignore_scope != "all" or denominators & {"all", "classes"}:
        return logits[..., :-1, :], labels[..., 1:]
    labels = labels.roll(-1, -1)
    labels[..., -1] = ignore_index
    return logits, labels


def _refuse_aligned(outputs, logits, labels):
    """Refuse to shift where logits and labels belong to the same position, or where there are no positions."""
    name, keys = type(outputs).__name__, outputs if isinstance(outputs, dict) else ()
    aligned = any(part in name for part in UNSHIFTED) or "encoder_last_hidden_state" in keys
    if aligned or logits.ndim < 3 or labels.ndim < 2:
        got = f"{name} with logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
        raise complain(
            "shift", "False where each label belongs to the logits at its own place", got, "Pass shift=False."
        )
