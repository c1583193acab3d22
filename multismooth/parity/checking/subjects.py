"""What is compared: a user's loss (Subject), and the specification (Reference). Both answer a Case."""

import copy

import numpy as np

import multismooth.numpy
from multismooth.implementations import implementation
from multismooth.parity.calling.answers import NO_KEYWORDS, Answer, CallOptions
from multismooth.parity.calling.black_box import no_warnings
from multismooth.parity.calling.connecting import answers_to_labels, connect
from multismooth.parity.calling.forms import TARGETS, one_hot
from multismooth.parity.identifying import noise
from multismooth.parity.identifying.layouts import written_for
from multismooth.parity.reading import SENTENCE_MEANS, SENTENCES, of_sentences

OFFSETS = (0.25, -0.5, 1.0)  # added to all logits: what the answer moves is rounding


class Subject:
    """A user's loss fn(logits, targets, **keywords).

    variable: what fn is called in printed code. connection: further options of `connect`.
    """

    def __init__(self, fn, framework, num_classes, keywords=NO_KEYWORDS, variable="fn", **connection):
        self.fn, self.name, self.keywords, self.variable = fn, name_of(fn), keywords, variable
        self.box = connect(fn, framework, num_classes, keywords=keywords, **connection)
        self.observed = noise.of(self.box)
        self._answers, self._written_for = {}, {}

    @property
    def framework(self):
        return self.box.framework

    @property
    def other_layouts(self):
        """The names of the layouts that fn takes beside its first one."""
        return tuple(name for name in self.box.layouts if name != self.box.form.layout)

    def is_written_for(self, layout):
        """Whether the loss means anything in a layout that it accepts."""
        if layout not in self._written_for:
            other, precision = self.box.layouts.get(layout), self.observed.precision
            self._written_for[layout] = other is None or written_for(self.box, other, precision)
        return self._written_for[layout]

    @property
    def takes_rows(self):
        """Whether the targets may be rows of probabilities."""
        rows = self.box.with_form(targets="rows")
        return self.box.form.targets == "rows" or answers_to_labels(rows, rows.num_classes)

    @property
    def reads_rows(self):
        """Whether one-hot rows are to it what the labels are."""
        labels, z = noise.problem(self.box)
        try:
            answers = [self.box.with_form(targets=targets)(z, labels) for targets in TARGETS]
        except Exception:  # it takes rows alone
            return True
        return noise.apart(*answers) <= max(1e-6, 8 * self.observed.precision)

    def box_of(self, case):
        """The box that the case is asked with: of its layout, where fn takes that, and of its form of targets."""
        box = self.box.layouts.get(case.layout, self.box)
        return box.with_form(targets="rows") if case.labels.ndim == 2 else box

    def shape(self, case):
        """The elements' shape in which fn gets the case."""
        return self.box_of(case).shape(*case.logits.shape)

    def answer(self, case) -> Answer:
        """fn's Answer to a case. Answers and exceptions are cached: each case is computed once."""
        if case not in self._answers:
            try:
                self._answers[case] = self.new_answer(case)
            except Exception as error:
                self._answers[case] = error
        if isinstance(self._answers[case], Exception):
            raise self._answers[case]
        return self._answers[case]

    def new_answer(self, case) -> Answer:
        """fn's Answer to a case, computed anew."""
        box, options = self.box_of(case), CallOptions(case.dtype, case.strided, case.keywords)
        answer = box(case.logits, case.labels, options)
        answer = answer._replace(precision=max(answer.precision, self.observed.precision))
        if answer.precision < noise.EPS["float16"] or not np.isfinite(case.logits).all():
            return answer
        moved = [box(case.logits + offset, case.labels, options) for offset in OFFSETS]
        return answer._replace(noise=tuple(_moved(name, answer, moved) for name in ("loss", "gradient")))

    def gradients(self, case, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass; None without autodiff."""
        options = CallOptions(case.dtype, keywords=case.keywords)
        return self.box_of(case).gradients(case.logits, case.labels, cotangents, options)

    def with_other_compilation(self):
        """The same loss compiled if it runs eagerly, and eager if it is compiled; None without a compiler."""
        with no_warnings():
            caller = self.box.caller.with_other_compilation()
        if caller is None:
            return None
        other = copy.copy(self)
        other.box, other._answers = copy.copy(self.box), {}
        other.box.caller = caller
        other.box.layouts = {other.box.form.layout: other.box}
        return other


def _moved(name, answer, others):
    """How far a part of the answer moves at most."""
    first = getattr(answer, name)
    if first is None or not first.size:
        return 0.0
    with no_warnings():
        moved = max(np.abs(getattr(other, name) - first).max() for other in others)
    return float(np.nan_to_num(moved, nan=np.inf))


def answer_or_error(side, case):
    """(the side's Answer, None), or (None, the exception that it raises)."""
    try:
        return side.answer(case), None
    except Exception as error:
        return None, error


class Reference:
    """`multismooth.loss_and_grad` in float64 under fixed settings."""

    name = "multismooth"

    def __init__(self, settings, shape=None, rows=False):
        """shape(case): in which shape the elements are. rows: whether targets are rows of probabilities."""
        self.settings, self.shape, self.rows = settings, shape, rows

    def answer(self, case) -> Answer:
        targets = one_hot(case.labels, case.logits.shape[1]) if self.rows else case.labels
        with no_warnings(), implementation("spec"):
            loss, gradient = multismooth.numpy.loss_and_grad(case.logits, targets, **self.arguments(case))
        return Answer(np.asarray(loss, np.float64), gradient, 0.0)

    def arguments(self, case):
        """The keyword arguments of `multismooth.loss` for one case."""
        arguments = {**self.settings, **case.keywords}
        reduction, normalizer = arguments["reduction"], arguments.get("normalizer")
        if reduction == SENTENCE_MEANS or (reduction == "mean" and normalizer == SENTENCES):
            labels = np.reshape(case.labels, self.shape(case))
            found = of_sentences(labels, reduction, normalizer, arguments["ignore_index"])
            arguments |= {name: np.reshape(v, -1) if np.ndim(v) else v for name, v in found.items()}
            arguments["reduction"] = "mean"
        elif reduction != "mean":
            arguments["normalizer"] = None
        return arguments


def name_of(fn):
    """The name of fn in a report. It has no address in it, so it is the same in every run."""
    inner = getattr(fn, "func", None)
    if inner is not None:
        return f"partial({name_of(inner)})"
    return getattr(fn, "__qualname__", type(fn).__qualname__).rpartition("<locals>.")[2]
