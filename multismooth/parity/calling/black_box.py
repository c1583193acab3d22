"""A BlackBox makes a loss of any framework and form a function of NumPy arrays (N, K) and (N,)."""

import copy
import warnings
from contextlib import contextmanager

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.answers import NO_KEYWORDS, CallOptions
from multismooth.parity.calling.forms import Form, one_hot, scores_of, through_scores
from multismooth.parity.calling.frameworks import MODES


class BlackBox:
    """fn as a function of NumPy arrays (N, K), (N,): `box(logits, labels) -> Answer`, whatever framework it runs in.

    Targets may also be rows (N, K), if its form is "rows".

    mode: a name in `MODES`. keywords: arguments that fn gets in every call. layouts: {name: the box of each layout
    that fn takes}, this one among them.
    """

    def __init__(self, fn, mode, form=None, dtype="float64", keywords=NO_KEYWORDS):
        self.fn, self.mode, self.form, self.dtype, self.keywords = fn, mode, form or Form(), dtype, keywords
        self.caller = MODES[mode](swapped(fn) if self.form.swapped else fn)
        self.num_classes, self.any_num_classes = 0, True
        self._calls = [0]  # shared with the boxes of other forms
        self.layouts = {self.form.layout: self}

    @property
    def framework(self):
        return self.mode.partition(" ")[0]

    @property
    def calls(self):
        """How often fn was called, in all forms together."""
        return self._calls[0]

    @calls.setter
    def calls(self, number):
        self._calls[0] = number

    def shape(self, n, k):
        """The elements' shape in which fn gets n elements of k classes."""
        return self.form.shape(n, k)

    def with_form(self, **changes):
        """The same loss, called in another form."""
        other = copy.copy(self)
        other.form = self.form._replace(**changes)
        if other.form.swapped != self.form.swapped:
            other.caller = MODES[self.mode](swapped(self.fn) if other.form.swapped else self.fn)
        other.layouts = {other.form.layout: other}
        return other

    def __call__(self, logits, labels, options=None):
        self.calls += 1
        z, y, options = self._arranged(logits, labels, options)
        with no_warnings():
            answer = self.caller(z, y, options)
        loss, gradient, n = answer.loss, answer.gradient, len(labels)
        if loss.size not in (1, n):
            got, remedy = f"shape {loss.shape} for logits {z.shape}", "Reduce it, or return one loss per element."
            raise complain("fn", "a loss, or one per element", got, remedy)
        if gradient is not None:
            gradient = self._as_rows(gradient, logits)
        loss = loss.reshape(-1) if loss.size == n and loss.ndim else loss.reshape(())
        return answer._replace(loss=loss, gradient=gradient)

    def gradients(self, logits, labels, cotangents, options=None):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass; None without autodiff."""
        z, y, options = self._arranged(logits, labels, options)
        with no_warnings():
            gradients = self.caller.gradients(z, y, options, cotangents)
        return None if gradients is None else [self._as_rows(gradient, logits) for gradient in gradients]

    def _arranged(self, logits, labels, options):
        """(logits, targets, CallOptions) in this box's form and dtype."""
        n, k, options = len(labels), logits.shape[-1], options or CallOptions()
        z = self.form.arrange(scores_of(logits.astype(np.float64), self.form.scores))
        shape = self.form.shape(n, k)
        is_rows = self.form.targets == "rows"
        y = self.form.arrange(one_hot(labels, k)) if is_rows else labels.reshape(shape)
        dtype = self.dtype if options.dtype == "float64" else options.dtype
        keywords = {**self.keywords, **options.keywords}
        keywords = {name: v.reshape(shape) if name == "sample_weight" else v for name, v in keywords.items()}
        return z, y, options._replace(dtype=dtype, keywords=keywords)

    def _as_rows(self, gradient, logits):
        return through_scores(self.form.as_rows(gradient, logits.shape), logits, self.form.scores)


def swapped(fn):
    """fn with its two arguments exchanged."""

    def exchanged(logits, targets, **keywords):
        return fn(targets, logits, **keywords)

    return exchanged


@contextmanager
def no_warnings():
    """Silences fn's warnings: its own tests look at those."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def one_line(error):
    """An exception as one line of text."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
