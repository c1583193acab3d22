"""Records which array operations a function makes, and replays them without the function.

`plan` and `reduction` are written for every convention and every combination of arguments. For one kind of call (its
shapes, dtypes and settings are known) all that remains of them is a dozen operations on arrays with an entry for each
element. They are recorded once, on NumPy arrays, and written down as one Python function.

The recorded function may not look at values: `if array > 0` raises `ValueSeen`. Shapes, dtypes and plain numbers become
part of the recording; arrays stay arguments.
"""

import math
import operator
import re
from functools import lru_cache

import numpy as np

from multismooth.namespace import XP
from multismooth.plan import NUMBERS
from multismooth.problem import Problem, new
from multismooth.reduction import reduced_plan

SIGNS = {
    "add": "+", "sub": "-", "truediv": "/", "matmul": "@", "and_": "&", "or_": "|",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


EXACT = 2**24  # up to this many, float32 counts without rounding


class ValueSeen(TypeError):
    """The recorded function asked for the value of an array."""


class Recorded:
    """An array of a recording: its value in the recorded call, and its name in the replay.

    Without axes it is a number of Python's, which is faster than one of NumPy's (0.03 µs an operation and not 0.5) and
    leaves float32 arrays float32.
    """

    __array_ufunc__ = None  # NumPy's arrays leave an operator with this class to this class
    of_booleans = None  # the Recorded booleans that this array has as numbers

    def __init__(self, recording, name, value):
        self.recording, self.name, self.value = recording, name, value

    shape = property(lambda self: np.shape(self.value))
    ndim = property(lambda self: np.ndim(self.value))
    dtype = property(lambda self: np.asarray(self.value).dtype)

    def __bool__(self):
        raise ValueSeen("a recorded function looks at the value of an array")

    def __invert__(self):
        return self.recording.add("~{}", operator.invert, self)

    def __mul__(self, other):
        """The product. A factor of exactly 1 needs no operation, unless the result would be the caller's own array."""
        if type(other) is float and other == 1.0 and self.dtype.kind == "f" and not self.recording.of_caller(self):
            return self
        return self.recording.add("{} * {}", operator.mul, self, other)

    __rmul__ = __mul__

    def __neg__(self):
        return self.recording.add("-{}", operator.neg, self)

    def __getitem__(self, place):
        return self.recording.add("{}[{}]", operator.getitem, self, place)


def _operators(name, sign):
    """The methods of a binary operator, for a Recorded array on its left and on its right."""
    function, template = getattr(operator, name), f"{{}} {sign} {{}}"
    return (
        lambda self, other: self.recording.add(template, function, self, other),
        lambda self, other: self.recording.add(template, function, other, self),
    )


for _name, _sign in SIGNS.items():
    _left, _right = _operators(_name, _sign)
    setattr(Recorded, f"__{_name.strip('_')}__", _left)
    setattr(Recorded, f"__r{_name.strip('_')}__", _right)


@lru_cache(64)
def filled(value, dtype, shape):
    """An array of one value: no operation of a replay, since only the shape decides."""
    found = np.full((), value, dtype)
    return np.broadcast_to(found, shape) if shape else found.item()


class Recording:
    """NumPy's namespace, which notes every operation on a `Recorded` array."""

    def __init__(self):
        self._lines = {}  # source: Recorded. What is there already is not computed twice.
        self._constants = {}  # name: what is no array of the call
        self._names = {}
        self._given = []  # the arrays of the recorded call

    def argument(self, name, value):
        """An argument of the replay."""
        found = Recorded(self, name, value)
        if np.ndim(value) == 0:
            return self.add("{}", lambda x: x, found)
        self._given.append(value)
        return found

    def of_caller(self, x):
        """Whether an array may be a view of an argument, to which the caller may write before backward."""
        return any(np.may_share_memory(x.value, value) for value in self._given)

    def add(self, template, function, *args):
        """function(*args), noted as the template filled with the names of the arguments."""
        found = function(*[x.value if isinstance(x, Recorded) else x for x in args])
        if not isinstance(found, (np.ndarray, np.generic, float, int)):
            return found
        source = template.format(*map(self._name, args))
        if np.ndim(found) == 0:
            kind = {"f": "float", "b": "bool", "i": "int", "u": "int"}[np.asarray(found).dtype.kind]
            source, found = f"{kind}({source})", np.asarray(found).item()
        if source not in self._lines:
            self._lines[source] = Recorded(self, f"t{len(self._lines)}", found)
        return self._lines[source]

    def _name(self, value):
        if isinstance(value, Recorded):
            return value.name
        key = (type(value), value) if isinstance(value, (int, float, str, tuple, type(None))) else id(value)
        if key not in self._names:
            self._names[key] = name = f"c{len(self._names)}"
            self._constants[name] = value
        return self._names[key]

    # --- the namespace ---

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
        found.of_booleans = x if x.dtype == bool else None
        return found

    def constant(self, value, z):
        return self.astype(value, XP.float_of(z)) if isinstance(value, Recorded) else XP.constant(value, z)

    def sum(self, x, axis=None, keepdims=False, dtype=None):
        """Without NumPy's wrapper, which takes a microsecond. What is True is counted, in a fifth of a sum's time."""
        if not isinstance(x, Recorded):
            return XP.sum(x, axis=axis, keepdims=keepdims, dtype=dtype)
        if x.of_booleans is not None and axis is None and not keepdims and x.value.size <= EXACT:
            return self.add(f"{self._name(np.count_nonzero)}({{}})", lambda b: float(b.sum()), x.of_booleans)
        template = f"{self._name(np.add.reduce)}({{}}, {{}}, {{}}, {{}}, {{}})"
        return self.add(template, np.add.reduce, x, axis, dtype, None, keepdims)

    def where(self, condition, x, y):
        scalars = all(np.ndim(getattr(value, "value", value)) == 0 for value in (condition, x, y))
        if scalars and isinstance(condition, Recorded):
            x, y = (value if isinstance(value, Recorded) else np.asarray(value).item() for value in (x, y))
            return self.add("({1} if {0} else {2})", lambda c, x, y: x if c else y, condition, x, y)
        if not any(isinstance(value, Recorded) for value in (condition, x, y)):
            return XP.where(condition, x, y)
        return self.add(f"{self._name(np.where)}({{}}, {{}}, {{}})", np.where, condition, x, y)

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

    def broadcast_to(self, x, shape):
        if isinstance(x, Recorded) and x.shape == tuple(shape):
            return x
        return self.__getattr__("broadcast_to")(x, tuple(shape))

    # --- the replay ---

    def program(self, arguments, record):
        """A function of these arguments that makes the NamedTuple `record` again."""
        fields = [
            f"{self._name(x)}.item()"
            if name in NUMBERS and getattr(x, "shape", ()) and math.prod(x.shape) == 1
            else self._name(x)
            for name, x in zip(record._fields, record, strict=True)
        ]
        needed, kept = set(re.findall(r"\bt\d+\b", " ".join(fields))), []
        for source, found in reversed(self._lines.items()):
            if found.name in needed:
                needed |= set(re.findall(r"\bt\d+\b", source))
                kept.append(f"    {found.name} = {source}\n")
        body = (
            "".join(reversed(kept))
            + f"    return {self._name(new)}({self._name(type(record))}, ({', '.join(fields)},))\n"
        )
        scope = dict(self._constants)
        exec(compile(f"def replay({', '.join(arguments)}):\n{body}", "<recording>", "exec"), scope)
        return scope["replay"]


# --- the plan of a kind of call ---------------------------------------------------------------------------------------

NOT_FOR_KERNELS = {
    "label_weight": 1.0,
    "denominator_share": 1.0,
    "smooth_denominator_share": None,
    "z_loss_denominator_share": None,
}


def plan_program(shape, wide, values, settings):
    """`reduced_plan` for calls like this one, as a function of a Problem's fields as NumPy sees them.

    None for a single element, whose plan is all numbers, and if the plan depends on values in a way that cannot be
    recorded. `values`: the fields in this call. `wide`: logits of this shape are float64.
    """
    if len(shape) < 2:
        return None
    recording = Recording()
    logits = np.broadcast_to(np.zeros((), np.float64 if wide else np.float32), shape)
    arguments = [
        recording.argument(name, value)
        if isinstance(value, np.ndarray) or (name == "normalizer" and value is not None)
        else value
        for name, value in zip(Problem._fields[1:], values[1:], strict=True)
    ]
    try:
        plan = reduced_plan(Problem(logits, *arguments), settings, recording)
    except ValueSeen:
        return None
    return recording.program(Problem._fields, plan._replace(**NOT_FOR_KERNELS))
