"""The Triton kernels that make a plan from arrays: class weights, a class mask, sample weights, ε per element.

`everyday` computes what `plan.plan_of` and `reduction.factors` compute for calls without a prior. It does not read soft
targets. Where there are many elements, `sums` goes before it. `plans` says for which calls. `guard` puts NaN in place
of numbers that are not allowed and that no check can read.
"""

import triton
import triton.language as tl


@triton.jit
def guard_one(values, guarded, size, high, BLOCK: tl.constexpr):
    """A block of values as float32, with NaN for those outside [0, high]. None: for the infinite ones too."""
    if values is not None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(values + i, mask=i < size, other=0).to(tl.float32)
        allowed = (x >= 0) & (x < float("inf") if high is None else x <= high)
        tl.store(guarded + i, tl.where(allowed, x, float("nan")), mask=i < size)


@triton.jit
def guard(values, guarded, sizes, highest, BLOCK: tl.constexpr):
    """`guard_one` for up to five arguments, whatever the size of each."""
    guard_one(values[0], guarded[0], sizes[0], highest[0], BLOCK)
    guard_one(values[1], guarded[1], sizes[1], highest[1], BLOCK)
    guard_one(values[2], guarded[2], sizes[2], highest[2], BLOCK)
    guard_one(values[3], guarded[3], sizes[3], highest[3], BLOCK)
    guard_one(values[4], guarded[4], sizes[4], highest[4], BLOCK)


@triton.jit
def class_sums(weight, mask, K, BLOCK: tl.constexpr):
    """(how many classes exist, the sum of their weights)."""
    number, total = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        exists = k < K
        if mask is not None:
            exists = tl.load(mask + k, mask=exists, other=0) != 0
        number += tl.where(exists, 1.0, 0.0)
        if weight is not None:
            total += tl.where(exists, tl.load(weight + k, mask=exists, other=0).to(tl.float32), 0.0)
    return tl.sum(number), tl.sum(total)


@triton.jit
def target(i, size, targets, weight, sample_weight, K, ignore_index, STEP: tl.constexpr):
    """(label, which is 0 for what is no class; whether it counts; its class weight; its sample weight).

    targets: None for soft targets, whose class weights the kernels of logits multiply by.
    """
    label, counted, w, s = i * 0, i < size, tl.full(i.shape, 1.0, tl.float32), tl.full(i.shape, 1.0, tl.float32)
    if targets is not None:
        y = tl.load(targets + i, mask=i < size, other=0)
        label = tl.where((y >= 0) & (y < K), y, 0)
        if ignore_index is not None:
            counted = counted & (y != ignore_index)
        if weight is not None:
            w = tl.load(weight + label, mask=i < size, other=0).to(tl.float32)
    if sample_weight is not None:
        s = tl.load(sample_weight + i * STEP, mask=i < size, other=0).to(tl.float32)
    return label, counted, w, s


@triton.jit
def smoothed_mass(i, size, epsilon, number, STEP: tl.constexpr, OTHERS: tl.constexpr, CLASSY: tl.constexpr):
    """ε′ of the elements: `plan.smoothed_mass`."""
    if STEP is None:
        mass = tl.zeros(i.shape, tl.float32) + epsilon
    else:
        mass = tl.load(epsilon + i * STEP, mask=i < size, other=0).to(tl.float32)
    if CLASSY:
        mass = mass / (1 + mass)
    if OTHERS:
        mass = tl.where(number > 1, mass * number / tl.maximum(number - 1, 1.0), 0.0)
    return mass


@triton.jit
def share_sums(
    first, step, size, targets, weight, sample_weight, epsilon, z_loss, K, ignore_index, number,
    STEPS: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(Σ of the elements' shares of the denominator, how many elements have a loss that need not be 0)."""
    OTHERS: tl.constexpr = MODE[0]
    CLASSY: tl.constexpr = MODE[1]
    KEEPS_IGNORED: tl.constexpr = MODE[2]
    DIVISOR: tl.constexpr = MODE[4]
    total, some = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(first, size, step):
        i = start + tl.arange(0, BLOCK)
        _, counted, w, s = target(i, size, targets, weight, sample_weight, K, ignore_index, STEPS[0])
        mass = smoothed_mass(i, size, epsilon, number, STEPS[1], OTHERS, CLASSY)
        counted = counted & (s != 0)
        share = 1.0 if DIVISOR == "nonzero" else (w * s if DIVISOR == "target_weight" else s)
        total += tl.where(counted, share, 0.0)
        smooths = (mass != 0) & (not KEEPS_IGNORED)
        some += tl.where(counted & ((w != 0) | smooths | (z_loss != 0)), 1.0, 0.0)
    return tl.sum(total), tl.sum(some)


@triton.jit
def sums(
    header, targets, weight, mask, sample_weight, epsilon, z_loss, size, K, ignore_index,
    STEPS: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program's `share_sums` go to header[2 + 2p …], the `class_sums` of the first one to header[0 … 1]."""
    p, programs = tl.program_id(0), tl.num_programs(0)
    if p == 0:
        number, weights = class_sums(weight, mask, K, 8 * BLOCK)
        tl.store(header, number)
        tl.store(header + 1, weights)
    total, some = share_sums(
        p * BLOCK, programs * BLOCK, size, targets, weight, sample_weight, epsilon, z_loss, K, ignore_index, 2.0,
        STEPS, MODE, BLOCK,
    )  # fmt: skip
    tl.store(header + 2 + 2 * p, total)
    tl.store(header + 3 + 2 * p, some)


@triton.jit
def reciprocal(total, some, IS_CHECKED: tl.constexpr):
    """`reduction.reciprocal`: 0 for a total of 0, or NaN if an element has a loss."""
    nothing = 0.0 if IS_CHECKED else tl.where(some > 0, float("nan"), 0.0)
    return tl.where(total == 0, nothing, 1 / tl.where(total == 0, 1.0, total))


@triton.jit
def everyday(
    header, ticket, labels, active, a, b, squares, v, v_sum,
    targets, weight, mask, sample_weight, epsilon, z_loss, normalizer,
    size, K, ignore_index, fixed_share, add, floor, scale,
    STEPS: tl.constexpr, MODE: tl.constexpr, NOTHING_IS_NAN: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The plan's ticket, labels, active, a, b, z_loss (`squares`), row v and Σv.

    MODE: (spread "others", "classy", scope "nll_only", how class weights enter, the denominator, "number" of the caller
    or "none"). PROGRAMS: those of `sums`; without a header the only program computes the sums itself.
    """
    WEIGHTS: tl.constexpr = MODE[3]
    DIVISOR: tl.constexpr = MODE[4]
    if ticket is not None:
        tl.store(ticket, 0)
    p, programs = tl.program_id(0), tl.num_programs(0)
    if header is None:
        number, weights = class_sums(weight, mask, K, 8 * BLOCK)
    else:
        number, weights = tl.load(header), tl.load(header + 1)
    factor, of_uncounted, nothing = scale, 0.0, False
    if DIVISOR != "none":
        if header is None:
            total, some = share_sums(
                0, BLOCK, size, targets, weight, sample_weight, epsilon, z_loss, K, ignore_index, number,
                STEPS, MODE, BLOCK,
            )  # fmt: skip
        else:
            q = tl.arange(0, PROGRAMS)
            total, some = tl.sum(tl.load(header + 2 + 2 * q)), tl.sum(tl.load(header + 3 + 2 * q))
        if DIVISOR == "caller":
            factor *= reciprocal(tl.load(normalizer).to(tl.float32), some, False)
        else:
            total = tl.maximum((total if fixed_share is None else fixed_share * size) + add, floor)
            factor *= reciprocal(total, some, weight is None)
            if NOTHING_IS_NAN:
                nothing = (total == 0) & (some == 0)
                of_uncounted = tl.where(nothing, float("nan"), 0.0)
    for start in range(p * BLOCK, size, programs * BLOCK):
        i = start + tl.arange(0, BLOCK)
        here = i < size
        label, counted, w, s = target(i, size, targets, weight, sample_weight, K, ignore_index, STEPS[0])
        mass = smoothed_mass(i, size, epsilon, number, STEPS[1], MODE[0], MODE[1])
        valid = here
        if targets is not None:
            valid = tl.load(targets + i, mask=here, other=0) == label
            if mask is not None:
                valid = valid & (tl.load(mask + label, mask=here, other=0) != 0)
            tl.store(labels + i, label, mask=here)
        f = factor * s
        smooth = f * mass * w if WEIGHTS == "target" else f * mass
        f = tl.where(valid | (counted == 0), f, float("nan"))  # a label that names no existing class
        if NOTHING_IS_NAN:  # then elements with the class weight 0 do not count either
            counted = counted & (nothing == 0)
        logits_count = (here if MODE[2] else counted) & (s != 0)
        counted = counted & (s != 0)
        tl.store(a + i, tl.where(counted, f * (1 - mass) * w, of_uncounted), mask=here)
        tl.store(b + i, tl.where(logits_count, smooth, 0.0), mask=here)
        if squares is not None:
            tl.store(squares + i, tl.where(counted, factor * s * z_loss, 0.0), mask=here)
        if active is not None:
            tl.store(active + i, logits_count, mask=here)
    if v is not None:
        one = 1 / tl.where(number == 0, 1.0, number)
        for start in range(p * BLOCK, K, programs * BLOCK):
            k = start + tl.arange(0, BLOCK)
            share = tl.zeros((BLOCK,), tl.float32) + one
            if WEIGHTS == "per_term":
                share = share * tl.load(weight + k, mask=k < K, other=0).to(tl.float32)
            if mask is not None:
                share = tl.where(tl.load(mask + k, mask=k < K, other=0) != 0, share, 0.0)
            tl.store(v + k, share, mask=k < K)
        if p == 0:
            tl.store(v_sum, weights * one if WEIGHTS == "per_term" else number * one)
