"""The arithmetic of the compiled kernels: an exponential that runs in vectors, and entries of any floating dtype.

Numba has no vector exponential, and calls the C library's once per number (a kernel is 2.3 times slower with it). The
functions with an overload are for the kernels alone: their Python bodies never run.
"""

import math
import sys

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from multismooth.cpu.compiled import disk

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("NUMBA_DISABLE_JIT is set, and these kernels cannot run as Python")

# LLVM may reorder sums, so that they run in as many lanes as the machine has. NaN and inf keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


def compiled(flags, from_python=False):
    """Compile a function on its first call, and keep its machine code on disk. It runs without the interpreter's lock.

    from_python: not only other kernels call it. Each way to call a function is compiled, with the function inside.

    No references are counted: a row of 100 classes takes 134 ns instead of 163.
    """
    disk.add_module(sys._getframe(1).f_code)  # the module that is being imported
    ways = {"no_cpython_wrapper": not from_python, "no_cfunc_wrapper": True}
    options = {"nogil": True, "fastmath": flags, "error_model": "numpy", "_nrt": False} | ways
    return lambda function: disk.cached_on_disk(numba.njit(**options)(function))


def bits_as(to):
    """An intrinsic that reads the same bits as another type."""

    @intrinsic
    def read(context, x):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(to))

        return to(x), generate

    return read


as_int32, as_float32 = bits_as(types.int32), bits_as(types.float32)
as_int64, as_float64 = bits_as(types.int64), bits_as(types.float64)


@intrinsic
def larger(context, x, y):
    """max(x, y), skipping NaN. Without the no-NaN flag LLVM does not make vectors of the loop (12 times slower)."""

    def generate(context, builder, signature, arguments):
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", *arguments, flags=flags), *arguments, flags=flags)

    return x(x, x), generate


F = np.float32
# For |r| ≤ log(2)/2, 1 + r + C2·r² + … is wrong by at most 4e-9 of exp r, the least error possible with six powers. The
# coefficients were found by Lawson's iteration: least squares on Chebyshev's nodes, weighted again and again by the
# errors. Taylor's polynomial with seven powers is wrong by 7e-9.
C2, C3, C4 = F(0.49999993447779056), F(0.16666520631627363), F(0.04166838804883552)
C5, C6 = F(0.00836871688732973), F(0.00138145984745469)
ONE, LOG2E, MAGIC, LOWEST, LN2 = F(1), F(1.4426950408889634), F(1.5 * 2**23), F(-87.0), F(0.6931471805599453)
D2, D3, D4, D5, D6, D7, D8, D9, D10, D11, D12, D13 = (1 / math.factorial(k) for k in range(2, 14))


@compiled({"contract"})
def exp32(x):
    """exp of x ≤ 0 in float32, as 2^n·exp r; adding 1.5·2²³ rounds to the integer n.

    The error is at most 4e-8; at e^−87 it is 3e-7 of the result. log(2) is subtracted in one piece (wrong by 2e-9) and
    there is no seventh power, which takes 0.33 ns per number instead of 0.38.
    """
    shifted = x * LOG2E + MAGIC
    n = shifted - MAGIC
    r = x - n * LN2
    p = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    scale = as_float32(np.int32((as_int32(shifted) << np.int32(23)) + np.int32(0x3F800000)))
    return F(0) if x < LOWEST else p * scale


@compiled({"contract"})
def exp64(x):
    """The same in float64."""
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
    tail = D7 + r * (D8 + r * (D9 + r * (D10 + r * (D11 + r * (D12 + r * D13)))))
    p = 1.0 + r * (1.0 + r * (D2 + r * (D3 + r * (D4 + r * (D5 + r * (D6 + r * tail))))))
    scale = as_float64((as_int64(shifted) << 52) + 0x3FF0000000000000)
    return 0.0 if x < -708.0 else p * scale


def exp(x):
    raise NotImplementedError


@overload(exp)
def _exp(x):
    return (lambda x: exp32(x)) if x is types.float32 else (lambda x: exp64(x))


# --- from the dtype that is stored to the dtype that is computed in, and back ----------------------------------------


def as_float(x):
    raise NotImplementedError


@overload(as_float)
def _as_float(x):
    """A logit as a number to compute with. Integers of 16 bits are the bits of bfloat16."""
    if x is types.uint16:
        return lambda x: as_float32(np.int32(np.int32(x) << np.int32(16)))
    return lambda x: x


def rounded(out, x):
    raise NotImplementedError


@overload(rounded)
def _rounded(out, x):
    """x as an entry of `out`: rounded to nearest, ties to even."""
    if out.dtype is types.uint16:

        def to_bfloat16(out, x):
            bits = as_int32(np.float32(x))
            return np.uint16((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16))

        return to_bfloat16
    if out.dtype is types.float32:
        return lambda out, x: np.float32(x)
    return lambda out, x: np.float64(x)


# --- a value for each element, or one value for all -----------------------------------------------------------------


def entry(values, i):
    raise NotImplementedError


@overload(entry)
def _entry(values, i):
    """Entry i (an index or several) of an array; a number is that of every element, and None stands for True."""
    if isinstance(values, types.Array):
        return lambda values, i: values[i]
    if isinstance(values, types.NoneType):
        return lambda values, i: True
    return lambda values, i: values
