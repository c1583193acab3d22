"""The recorder: NumPy's namespace, whose operations on recorded arrays become lines of a function."""

import math
import operator
from functools import lru_cache

import numpy as np

from multismooth.namespace import XP
from multismooth.plan import NUMBERS
from multismooth.problem import new
from multismooth.recording.arrays import Recorded, ValueSeen
from multismooth.recording.lines import Line, compiled, written
from multismooth.spec import Plan

EXACT = 2**24  # up to this many, float32 counts without rounding


@lru_cache(64)
def filled(value, dtype, shape):
    """An array of one value: no operation of a replay, since only the shape decides."""
    found = np.full((), value, dtype)
    return np.broadcast_to(found, shape) if shape else found.item()


def example(shape, dtype):
    """An array in place of one that a replay gets: labels of the first class, and ones."""
    return np.zeros(shape, dtype) if np.dtype(dtype).kind in "iu" else np.ones(shape, dtype)


class Recording:
    """NumPy's namespace, which notes every operation on a `Recorded` array.

    keeps: whether somebody keeps what the replay returns, so that none of it may be the caller's own array.
    """

    def __init__(self, keeps=True):
        self.keeps = keeps
        self._constants = {}  # name: what is no array of the call
        self._names = {}
        self._start(None)

    def _start(self, answer):
        self._lines, self._found = [], {}  # source: Recorded. What is there already is not computed twice.
        self._given = []  # the arrays of the recorded call
        self._answer, self._question = answer, None  # (the Recorded boolean that was asked for, how many lines before)

    # --- arguments, operations, questions ---

    def argument(self, name, value):
        """An argument of the replay."""
        found = Recorded(self, name, value)
        return self.scalar(found) if np.ndim(value) == 0 else self.given(found)

    def given(self, array):
        """The array, as one of the caller's."""
        self._given.append(array.value)
        return array

    def scalar(self, array):
        """The number of an array without axes."""
        return self.add("{}", lambda x: x, array)

    def of_caller(self, x):
        """Whether an array may be a view of an argument, to which the caller may write before backward."""
        return any(np.may_share_memory(x.value, value) for value in self._given)

    def add(self, template, function, *args):
        """function(*args), noted as the template filled with the names of the arguments."""
        values = [*map(_value, args)]
        found = function(*values)
        if not isinstance(found, (np.ndarray, np.generic, float, int)):
            return found
        source = template.format(*map(self._expression, args))
        as_an_array = any(isinstance(x, np.generic) for x in values)  # an operand is: see `product`
        if np.ndim(found) == 0 and type(found) not in (float, int, bool) and not as_an_array:
            found = np.asarray(found).item()
            source = f"{type(found).__name__}({source})"
        return self._noted(source, found)

    def call(self, function, *args, value=None, always=True):
        """function(*args) of a function that is not recorded, as `value`. always: though nobody uses what it returns.

        The arguments need not be arrays.
        """
        found = self._noted(f"{self._name(function)}({', '.join(map(self._expression, args))})", value)
        found.value = value if found.value is None else found.value
        self._lines[int(found.name[1:])].always |= always
        return found

    def array(self, function, array, value):
        """function(array), which shows an array of the caller's to NumPy, in a recording that finds `value`."""
        return self.given(self.call(function, array, value=value))

    def plain(self, values):
        """The values, and of arrays without axes their numbers."""
        return tuple(
            self.scalar(x) if isinstance(x, Recorded) and isinstance(x.value, np.ndarray) and x.ndim == 0 else x
            for x in values
        )

    def write(self, template, array, *args):
        """A statement that writes to an array of the replay's own. What was read from it is read again."""
        self._found = {source: x for source, x in self._found.items() if array.name not in source}
        self._lines.append(Line(template.format(array.name, *map(self._expression, args)), writes=array.name))

    def stop_unless(self, condition):
        """The replay returns None unless the condition holds."""
        if condition is not True:
            self._lines.append(Line(f"if not {self._name(condition)}: return None"))

    def ask(self, condition):
        """Whether the condition holds. A replay may ask once."""
        if not isinstance(condition, Recorded):
            return bool(condition)
        if self._question is not None:
            raise ValueSeen("a recorded function asks twice")
        self._question = condition.name, len(self._lines)
        return self._answer

    def _noted(self, source, found):
        if source not in self._found:
            self._found[source] = Recorded(self, name := f"t{len(self._lines)}", found)
            self._lines.append(Line(source, name))
        return self._found[source]

    def _name(self, value):
        if isinstance(value, Recorded):
            return value.name
        key = (type(value), value) if type(value) in (int, float, bool, str, tuple, type(None)) else id(value)
        if key not in self._names:
            self._names[key] = name = f"c{len(self._names)}"
            self._constants[name] = value
        return self._names[key]

    # --- the namespace ---

    def product(self, x, other):
        """x·other. A factor of exactly 1 needs no operation, unless the caller's own array would be kept."""
        floats, number = x.dtype.kind == "f", np.ndim(getattr(other, "value", other)) == 0
        if type(other) is float and other == 1.0 and floats and not (self.keeps and self.of_caller(x)):
            return x
        if x.entry is None or not number:
            found = self.add("{} * {}", operator.mul, x, other)
            if isinstance(found, Recorded) and type(other) is float and math.isfinite(other):
                found.multiple_of = x if x.multiple_of is None else x.multiple_of
            return found
        booleans, ones, entry = x.entry
        entry = self.add("{} * {}", operator.mul, entry, other)  # a number of NumPy's, so rounded as the array's are
        found = self.add("{} * {}", operator.mul, ones, entry)
        found.entry = booleans, ones, entry
        return found

    def zeros_like(self, x, dtype=None):
        return filled(0, np.dtype(x.dtype if dtype is None else dtype), x.shape)

    def ones_like(self, x):
        return filled(1, np.dtype(x.dtype), x.shape)

    def __getattr__(self, name):
        function = getattr(XP, name)

        def noted(*args, **options):
            if not any(isinstance(x, Recorded) for x in args):
                return function(*args, **options)
            template = ", ".join(["{}"] * len(args) + [f"{key}={{}}" for key in options])
            count = len(args)

            def call(*values):
                return function(*values[:count], **dict(zip(options, values[count:], strict=True)))

            return self.add(f"{self._name(function)}({template})", call, *args, *options.values())

        return noted if callable(function) and not isinstance(function, type) else function

    def astype(self, x, dtype, copy=True):
        if not isinstance(x, Recorded):
            return XP.astype(x, dtype, copy=copy)
        if x.ndim == 0 or x.dtype == dtype:
            return x
        found = self.add("{}.astype({})", np.ndarray.astype, x, dtype)
        if x.dtype == bool:
            found.entry = x, found, np.dtype(dtype).type(1)
        return found

    def constant(self, value, z):
        return self.astype(value, XP.float_of(z)) if isinstance(value, Recorded) else XP.constant(value, z)

    def sum(self, x, axis=None, keepdims=False, dtype=None):
        """Without NumPy's wrapper, which takes a microsecond. What is True is counted, in a fifth of a sum's time."""
        if not isinstance(x, Recorded):
            return XP.sum(x, axis=axis, keepdims=keepdims, dtype=dtype)
        if x.entry is not None and x is x.entry[1] and axis is None and not keepdims and x.size <= EXACT:
            return self.add("float({})", float, self.count(x.entry[0]))
        return self.function(np.add.reduce, x, axis, dtype, None, keepdims)

    def where(self, condition, x, y):
        scalars = all(np.ndim(getattr(value, "value", value)) == 0 for value in (condition, x, y))
        if scalars and isinstance(condition, Recorded):
            x, y = (value if isinstance(value, Recorded) else np.asarray(value).item() for value in (x, y))
            return self.add("({1} if {0} else {2})", lambda c, x, y: x if c else y, condition, x, y)
        if not any(isinstance(value, Recorded) for value in (condition, x, y)):
            return XP.where(condition, x, y)
        zero = not isinstance(y, Recorded) and not np.any(y)
        base = getattr(condition, "nonzero_of", None)
        if zero and base is not None and isinstance(x, Recorded) and (base is x or base is x.multiple_of):
            return x  # which is 0 already where its base is
        found = self.function(np.where, condition, x, y)
        found.chosen = condition, x
        return found

    def take(self, x, index, axis):
        """Without NumPy's wrapper."""
        if not isinstance(x, Recorded) and not isinstance(index, Recorded):
            return XP.take(x, index, axis=axis)
        return self.add("{}.take({}, {})", np.ndarray.take, x, index, axis)

    def reshape(self, x, shape):
        if not isinstance(x, Recorded):
            return XP.reshape(x, shape)
        found = np.reshape(x.value, shape)
        if found.shape == x.shape:
            return x
        if x.ndim == 0:
            return self.__getattr__("reshape")(x, found.shape)
        return self.add("{}.reshape({})", np.ndarray.reshape, x, found.shape)

    def expand_dims(self, x, axis):
        """Without NumPy's wrapper."""
        return self.reshape(x, np.expand_dims(x.value if isinstance(x, Recorded) else x, axis).shape)

    def broadcast_to(self, x, shape):
        if isinstance(x, Recorded) and x.shape == tuple(shape):
            return x
        return self.__getattr__("broadcast_to")(x, tuple(shape))

    # --- beyond the namespace, for the checks and the kernels ---

    def count(self, booleans):
        """How many are True."""
        return self.function(np.count_nonzero, booleans)

    def lowest(self, x):
        """The lowest entry, or NaN if there is one, in half the time of `np.minimum.reduce`."""
        return self.method("item", x, self.method("argmin", x)) if np.ndim(getattr(x, "value", x)) else x

    def largest(self, x):
        return self.method("item", x, self.method("argmax", x)) if np.ndim(getattr(x, "value", x)) else x

    def function(self, function, *args):
        """function(*args), where the namespace has a slower one or none."""
        return self.add(f"{self._name(function)}({', '.join(['{}'] * len(args))})", function, *args)

    def method(self, name, x, *args):
        """x.name(*args)."""
        template = f"{{}}.{name}({', '.join(['{}'] * len(args))})"
        return self.add(template, lambda x, *args: getattr(x, name)(*args), x, *args)

    # --- the replay ---

    def program(self, function, arguments):
        """`function(recording, *arguments)` as a function of arguments with these names.

        It may return numbers, arrays, tuples and NamedTuples of them.
        """
        paths = []
        for answer in (True, False):
            self._start(answer)
            with np.errstate(all="ignore"):
                result = function(self, *[Recorded(self, name, None) for name in arguments])
            paths.append((self._lines, self._expression(result)))
            if self._question is None:
                break
        source = written(arguments, paths, self._question)
        scope = dict(self._constants)
        exec(compiled(source), scope)
        return scope["replay"]

    def _expression(self, value):
        if not _recorded(value) or isinstance(value, Recorded):
            return self._name(value)
        parts = [self._expression(x) for x in value]
        if (names := getattr(value, "_fields", None)) is None:
            return f"({', '.join(parts)},)"
        for k, (name, x) in enumerate(zip(names, value, strict=True)):
            if isinstance(value, Plan) and name in NUMBERS and getattr(x, "shape", ()) and math.prod(x.shape) == 1:
                parts[k] += ".item()"
        return f"{self._name(new)}({self._name(type(value))}, ({', '.join(parts)},))"


def _value(x):
    """The value of an argument in the recorded call."""
    return x.value if isinstance(x, Recorded) else tuple(map(_value, x)) if _recorded(x) else x


def _recorded(value):
    """Whether this is a recorded array, or a tuple with one in it."""
    return isinstance(value, Recorded) or (isinstance(value, tuple) and any(map(_recorded, value)))
