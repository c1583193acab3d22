"""What the compiled kernels count with: an exponential that runs in vectors, and entries of any floating dtype.

Numba brings no vector exponential, and the C library's is called once per number (2.3 times slower in a kernel). The
overloads below are functions of the kernels alone: their Python bodies never run.
"""

import math
import sys

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from multismooth.cpu.compiled import disk

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("NUMBA_DISABLE_JIT is set, and what stands here has no Python to run instead")

FAST = {"reassoc", "contract", "nsz"}  # sums in as many lanes as the machine has; NaN and inf keep their meaning


def compiled(flags, counted=False):
    """Compile on the first call, to be kept on disk where there is a place; without the interpreter's lock.

    And without counts of references, which only a function that is handed arrays by another one needs: 134 ns instead
    of 163 for a row of 100 classes.
    """
    disk.includes(sys._getframe(1).f_code)  # of the module that is being run
    options = {"nogil": True, "fastmath": flags, "error_model": "numpy", "_nrt": counted}
    return lambda function: disk.kept(numba.njit(**options)(function))


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
    """max(x, y) of numbers: only where NaN may count for nothing does LLVM take a maximum in vectors (12 times)."""

    def generate(context, builder, signature, arguments):
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", *arguments, flags=flags), *arguments, flags=flags)

    return x(x, x), generate


F = np.float32
# 1 + r + C2·r² + … is exp r within 4e-9 of it for |r| ≤ log(2)/2: the least that six powers can be wrong by, found by
# Lawson's iteration (least squares on Chebyshev's nodes, weighed anew by the errors). Taylor's seventh is at 7e-9.
C2, C3, C4 = F(0.49999993447779056), F(0.16666520631627363), F(0.04166838804883552)
C5, C6 = F(0.00836871688732973), F(0.00138145984745469)
ONE, LOG2E, MAGIC, LOWEST, LN2 = F(1), F(1.4426950408889634), F(1.5 * 2**23), F(-87.0), F(0.6931471805599453)
D2, D3, D4, D5, D6, D7, D8, D9, D10, D11, D12, D13 = (1 / math.factorial(k) for k in range(2, 14))


@compiled({"contract"})
def exp32(x):
    """exp of x ≤ 0 in float32, 2^n·exp r, n from adding 1.5·2²³: wrong by 4e-8 at most, by 3e-7 of itself at e^−87.

    log(2) in one piece (wrong by 2e-9) and no seventh power: 0.33 ns a number instead of 0.38.
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


# --- what is stored, as what is computed with, and back -------------------------------------------------------------


def real(x):
    raise NotImplementedError


@overload(real)
def _real(x):
    if x is types.uint16:
        return lambda x: as_float32(np.int32(np.int32(x) << np.int32(16)))
    return lambda x: x


def stored(out, x):
    raise NotImplementedError


@overload(stored)
def _stored(out, x):
    """x as an entry of `out`: rounded to nearest, ties to even."""
    if out.dtype is types.uint16:

        def narrowed(out, x):
            bits = as_int32(np.float32(x))
            return np.uint16((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16))

        return narrowed
    if out.dtype is types.float32:
        return lambda out, x: np.float32(x)
    return lambda out, x: np.float64(x)


# --- one for each element, or one for all ---------------------------------------------------------------------------


def of(values, i):
    raise NotImplementedError


@overload(of)
def _of(values, i):
    """Entry i of an array; a number is that of every element, and None is True."""
    if isinstance(values, types.Array):
        return lambda values, i: values[i]
    if isinstance(values, types.NoneType):
        return lambda values, i: True
    return lambda values, i: values
