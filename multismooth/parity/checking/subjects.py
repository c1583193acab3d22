"""What is compared: a user's loss (Subject), and the specification (Reference). Both answer a Case."""

import copy

import numpy as np

import multismooth.numpy
from multismooth.implementations import implementation
from multismooth.parity.calling.black_box import connect, no_warnings
from multismooth.parity.calling.frameworks import NO_KEYWORDS, Answer, CallOptions


class Subject:
    """A user's loss fn(logits, targets, **keywords).

    variable: what fn is called in printed code. connection: further options of `connect`.
    """

    def __init__(self, fn, framework, num_classes, keywords=NO_KEYWORDS, variable="fn", **connection):
        self.fn, self.name, self.keywords, self.variable = fn, name_of(fn), keywords, variable
        self.box = connect(fn, framework, num_classes, keywords=keywords, **connection)
        self._answers = {}

    @property
    def framework(self):
        return self.box.framework

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
        return self.box(case.logits, case.labels, CallOptions(case.dtype, case.strided, case.keywords))

    def gradients(self, case, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass; None without autodiff."""
        return self.box.gradients(case.logits, case.labels, cotangents, CallOptions(case.dtype, keywords=case.keywords))

    def with_other_compilation(self):
        """The same loss compiled if it runs eagerly, and eager if it is compiled; None without a compiler."""
        with no_warnings():
            caller = self.box.caller.with_other_compilation()
        if caller is None:
            return None
        other = copy.copy(self)
        other.box, other._answers = copy.copy(self.box), {}
        other.box.caller = caller
        return other


def answer_or_error(side, case):
    """(the side's Answer, None), or (None, the exception that it raises)."""
    try:
        return side.answer(case), None
    except Exception as error:
        return None, error


class Reference:
    """`multismooth.loss_and_grad` in float64 under fixed settings."""

    name = "multismooth"

    def __init__(self, settings, sentences):
        self.settings, self.sentences = settings, sentences

    def answer(self, case) -> Answer:
        with no_warnings(), implementation("spec"):
            loss, gradient = multismooth.numpy.loss_and_grad(case.logits, case.labels, **self.arguments(case))
        return Answer(np.asarray(loss, np.float64), gradient, 0.0)

    def arguments(self, case):
        """The keyword arguments of `multismooth.loss` for one case."""
        arguments = {**self.settings, **case.keywords}
        if arguments["reduction"] != "mean":
            arguments["normalizer"] = None
        elif arguments.get("normalizer") == "sentences":
            arguments["normalizer"] = self.sentences(len(case.labels))
        return arguments


def name_of(fn):
    """The name of fn in a report. It has no address in it, so it is the same in every run."""
    inner = getattr(fn, "func", None)
    if inner is not None:
        return f"partial({name_of(inner)})"
    return getattr(fn, "__qualname__", type(fn).__qualname__).rpartition("<locals>.")[2]
