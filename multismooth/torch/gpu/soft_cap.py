"""The soft cap in Triton's kernels: z = c·tanh(given/c), ∂/∂given = ∂/∂z·(1 − (z/c)²)."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
MAX_TANH = tl.constexpr(40.0)  # from here on tanh is 1
CONTINUED = tl.constexpr(0.5)  # up to here (exp 2x − 1)/(exp 2x + 1) has fewer digits than a continued fraction


@triton.jit
def exponential(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def cap_of(plan, STEPS: tl.constexpr, COMPUTE: tl.constexpr):
    """The plan's soft cap: a number, or the entry of an array."""
    if STEPS[4] is None:
        return plan[6]
    else:
        return tl.load(plan[6]).to(COMPUTE)


@triton.jit
def capped(z, cap):
    """c·tanh(z/c) with one division. Lambert's continued fraction of tanh, broken off, is 2e-16 off at 0.5."""
    x = z * (1 / cap)
    s, size = x * x, tl.abs(x)
    e, near = exponential(2 * tl.where(size < MAX_TANH, size, MAX_TANH)), size < CONTINUED
    above = tl.where(near, x * (135135 + s * (17325 + s * (378 + s))), tl.where(x < 0, 1 - e, e - 1))
    below = tl.where(near, 135135 + s * (62370 + s * (3150 + s * 28)), e + 1)
    return tl.where(x == x, above / below, x) * cap


@triton.jit
def slope(z, cap):
    """1 − (z/c)² of capped logits z; 1 where there is none (−inf)."""
    t = tl.where(z > float("-inf"), z, 0.0) * (1 / cap)
    return 1 - t * t
