"""The two sides of a comparison: somebody's loss, and what it is held against. Both answer a Case."""

import copy

import numpy as np

import multismooth.numpy
from multismooth.implementations import implementation
from multismooth.parity.calling.black_box import connect, silence
from multismooth.parity.calling.frameworks import NOTHING, Answer, Call


class Subject:
    """Somebody's fn(logits, targets, **given). Answers are kept, refusals too."""

    def __init__(self, fn, framework, num_classes, given=NOTHING, variable="fn", **how):
        self.fn, self.name, self.given, self.variable = fn, name_of(fn), given, variable
        self.box = connect(fn, framework, num_classes, given=given, **how)
        self._answers = {}

    @property
    def framework(self):
        return self.box.framework

    def ask(self, case) -> Answer:
        if case not in self._answers:
            try:
                self._answers[case] = self.again(case)
            except Exception as error:
                self._answers[case] = error
        if isinstance(self._answers[case], Exception):
            raise self._answers[case]
        return self._answers[case]

    def again(self, case) -> Answer:
        return self.box(case.logits, case.labels, Call(case.dtype, case.strided, case.given))

    def pullback(self, case, cotangents):
        """The gradients of Σ cotangent·loss from one forward pass; None where there is no autodiff."""
        return self.box.pullback(case.logits, case.labels, cotangents, Call(case.dtype, given=case.given))

    def other_way(self):
        """The same loss under its framework's compiler, or eagerly if it is compiled; None without a compiler."""
        with silence():
            caller = self.box.caller.other_way()
        if caller is None:
            return None
        other = copy.copy(self)
        other.box, other._answers = copy.copy(self.box), {}
        other.box.caller = caller
        return other


def asked(side, case):
    """(what the side answers, None), or (None, what it raises)."""
    try:
        return side.ask(case), None
    except Exception as error:
        return None, error


class Reference:
    """`multismooth.loss_and_grad` in float64 under fixed settings."""

    name = "multismooth"

    def __init__(self, settings, sentences):
        self.settings, self.sentences = settings, sentences

    def ask(self, case) -> Answer:
        with silence(), implementation("spec"):
            loss, gradient = multismooth.numpy.loss_and_grad(case.logits, case.labels, **self.arguments(case))
        return Answer(np.asarray(loss, np.float64), gradient, 0.0)

    def arguments(self, case):
        """The keyword arguments of `multismooth.loss` for one case."""
        arguments = {**self.settings, **case.given}
        if arguments["reduction"] != "mean":
            arguments["normalizer"] = None
        elif arguments.get("normalizer") == "sentences":
            arguments["normalizer"] = self.sentences(len(case.labels))
        return arguments


def name_of(fn):
    """What fn is called in a report: the same in every run."""
    inner = getattr(fn, "func", None)
    if inner is not None:
        return f"partial({name_of(inner)})"
    return getattr(fn, "__qualname__", type(fn).__qualname__).rpartition("<locals>.")[2]
