"""The hard inputs of `binary_loss`, every path: what the oracle says, in every backend and through every derivative."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import oracle
import pytest
from adapters import bfloat16
from oracle import floats
from requirements import need
from tolerance import assert_close, tolerance

pytestmark = [
    pytest.mark.filterwarnings("ignore::multismooth.errors.SmoothingWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # forward-mode AD of torch itself
]
INF, NAN, FAR = np.inf, np.nan, 1e300
RNG = np.random.default_rng(3)
F32, F16, BF16 = np.float32, np.float16, bfloat16()
Z, T = (2 * RNG.normal(size=(3, 4))).astype(F32), RNG.uniform(size=(3, 4)).astype(F32)
CORNERS = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [0.5, 0, 1, 0.25]], F32)
COUNTS = np.array([[1.5, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0.5]], F32)
POSITIVE = np.array([0.5, 2.0, 0.0, 1.0], F32)


@dataclass(frozen=True)
class Hard:
    """A call `binary_loss(logits, targets, **settings)`."""

    logits: np.ndarray
    targets: np.ndarray
    settings: dict = field(default_factory=dict)

    @property
    def wide(self):
        return "float64" if self.logits.dtype == np.float64 else "float32"

    @property
    def finite(self):
        live = np.broadcast_to(self.settings.get("sample_weight", 1.0), self.logits.shape) != 0
        return np.isfinite(self.logits.astype(float)[live]).all()

    def expected(self, reduction):
        """(loss, ∂/∂logits, ∂/∂targets)"""
        z = self.logits.astype(np.float64)
        z = np.where(np.isinf(z), np.copysign(FAR, z), z)  # the oracle has no 0·inf
        settings = {k: v for k, v in self.settings.items() if reduction == "mean" or k != "normalizer"}
        found = oracle.evaluate_binary(z, self.targets.astype(np.float64), reduction=reduction, digits=60, **settings)
        return [np.where(np.abs(x) > FAR / 1e9, np.copysign(INF, x), x) for x in map(floats, found)]


def dead(array, value):
    return np.where(COUNTS == 0, np.asarray(value, array.dtype), array)


ROWS = {
    "plain": Hard(Z, T),
    "exact zeros and ones": Hard(Z, CORNERS),
    "exact zeros and ones, ε = 0": Hard(Z, CORNERS, {"label_smoothing": 0.0}),
    "ε = 1": Hard(Z, CORNERS, {"label_smoothing": 1.0}),
    "booleans": Hard(Z, CORNERS > 0.3),
    "logits at 0": Hard(np.zeros_like(Z), CORNERS),
    "logits at -0": Hard(-np.zeros_like(Z), CORNERS),
    "logits at ±1e4": Hard(np.sign(Z) * F32(1e4), T),
    "logits at ±1e8": Hard(np.sign(Z) * F32(1e8), CORNERS),
    "logits at ±3e38, ε = 0": Hard(np.sign(Z) * F32(3e38), (Z > 0).astype(F32), {"label_smoothing": 0.0}),
    "logits at ±1e15 in float64": Hard(np.sign(Z).astype(np.float64) * 1e15, T.astype(np.float64)),
    "tiny logits": Hard(Z * F32(1e-30), CORNERS),
    "float16": Hard(Z.astype(F16), T),
    "float16 at ±6e4": Hard((np.sign(Z) * 6e4).astype(F16), CORNERS),
    "float16 throughout": Hard(Z.astype(F16), T.astype(F16), {"pos_weight": POSITIVE.astype(F16)}),
    "bfloat16": Hard(Z.astype(BF16), T),
    "bfloat16 throughout": Hard(Z.astype(BF16), T.astype(BF16), {"sample_weight": COUNTS.astype(BF16)}),
    "float64": Hard(Z.astype(np.float64), T.astype(np.float64), {"pos_weight": POSITIVE.astype(np.float64)}),
    "NaN behind weight 0": Hard(dead(Z, NAN), T, {"sample_weight": COUNTS}),
    "NaN behind weight 0, everywhere": Hard(
        dead(Z, NAN), dead(T, NAN), {
            "sample_weight": COUNTS, "label_smoothing": dead(T / 2, NAN), "pos_weight": POSITIVE},
    ),
    "inf behind weight 0": Hard(dead(Z, INF), T, {"sample_weight": COUNTS}),
    "NaN behind False": Hard(dead(Z, NAN), dead(T, NAN), {"sample_weight": COUNTS > 0}),
    "all weights 0": Hard(np.full_like(Z, NAN), T, {"sample_weight": np.zeros(4, F32)}),
    "inf where it is right": Hard(np.where(CORNERS > 0.5, INF, -INF).astype(F32)[:2], CORNERS[:2], {
        "label_smoothing": 0.0}),
    "-inf where pos_weight is 0": Hard(np.where([1, 1, 0, 1], Z, -INF).astype(F32), CORNERS * 0 + 1, {
        "pos_weight": POSITIVE, "label_smoothing": 0.0}),
    "-inf that is wrong": Hard(np.where([1, 0, 1, 1], Z, -INF).astype(F32), T),
    "pos_weight 0": Hard(Z, CORNERS, {"pos_weight": POSITIVE}),
    "an ε for each": Hard(Z, CORNERS, {"label_smoothing": np.array([0, 0.1, 0.5, 1], F32)}),
    "a normalizer": Hard(Z, T, {"normalizer": 7.0, "sample_weight": COUNTS}),
    "empty": Hard(Z[:0], T[:0]),
    "one number": Hard(Z[0, 0], T[0, 0]),
    "strided": Hard(Z[:, ::2], T[:, ::2]),
    "Fortran": Hard(np.asfortranarray(Z), np.asfortranarray(T)),
    "images": Hard(Z.reshape(1, 1, 3, 4), T.reshape(1, 1, 3, 4)),
}  # fmt: skip


def near(result, expected, dtype, scale=1.0):
    """Losses within 2e-6, relative or absolute; gradients within a few roundings."""
    if str(result.dtype) == "torch.bfloat16":
        result = result.float().numpy().astype(BF16)
    result = result.numpy() if hasattr(result, "numpy") else np.asarray(result)
    assert_close(result, expected, dtype, scale=scale)


def losses(result, expected, wide):
    size = np.maximum(np.abs(np.where(np.isfinite(expected), expected, 0.0)), 1.0)
    scale = 2e-6 / tolerance("float32") * size if wide == "float32" else size
    near(result, expected, wide, scale=scale)


@pytest.mark.parametrize("name", ROWS)
def test_numpy(name):
    ms, hard = need("multismooth.numpy"), ROWS[name]
    if "bfloat16" in name:
        pytest.skip("NumPy has no bfloat16")
    for reduction in ("mean", "sum", "none"):
        settings = {k: v for k, v in hard.settings.items() if reduction == "mean" or k != "normalizer"}
        found = ms.binary_loss(hard.logits, hard.targets, reduction=reduction, **settings)
        losses(np.asarray(found), hard.expected(reduction)[0], hard.wide)


def tensor(value):
    torch = need("torch")
    if not isinstance(value, np.ndarray | np.generic):
        return value
    value = np.asarray(value)
    return torch.from_numpy(value.astype(F32)).bfloat16() if value.dtype == BF16 else torch.from_numpy(value)


COMPILED = ("exact zeros and ones", "logits at ±1e8", "bfloat16", "NaN behind False", "inf where it is right")


@pytest.mark.parametrize(("name", "mode"), [(n, "eager") for n in ROWS] + [(n, "compiled") for n in COMPILED])
def test_torch(name, mode):
    torch, ms, hard = need("torch"), need("multismooth.torch"), ROWS[name]
    if mode == "compiled":
        torch._dynamo.reset()
    call = torch.compile(ms.binary_loss, backend="aot_eager") if mode == "compiled" else ms.binary_loss
    soft = hard.targets.dtype != bool
    for reduction in ("mean", "none"):
        settings = {k: tensor(v) for k, v in hard.settings.items() if reduction == "mean" or k != "normalizer"}
        z, t = tensor(hard.logits).requires_grad_(), tensor(hard.targets)
        t = t.requires_grad_() if soft else t
        loss = call(z, t, reduction=reduction, **settings)
        value, slope, turn = hard.expected(reduction)
        losses(loss.detach(), value, hard.wide)
        found = torch.autograd.grad(loss, (z, t) if soft else (z,), torch.ones_like(loss))
        if hard.finite:
            near(found[0], slope, str(z.dtype)[6:])
        if soft and hard.finite:
            near(found[1], turn, str(t.dtype)[6:], scale=np.abs(turn).max(initial=1.0))


@pytest.mark.parametrize("name", ROWS)
def test_torch_derivatives_of_derivatives(name):
    torch, ms, hard = need("torch"), need("multismooth.torch"), ROWS[name]
    if not hard.finite:
        pytest.skip("an infinite logit's slope has no derivative")
    z, t = tensor(hard.logits), tensor(hard.targets)
    settings = {k: tensor(v) for k, v in hard.settings.items() if k != "normalizer"}

    def each(z):
        return ms.binary_loss(z, t, reduction="none", **settings)

    def total(z):
        return each(z).sum()

    slope = hard.expected("none")[1]
    ones, own = torch.ones_like(z), str(z.dtype)[6:]
    curve = second(hard)
    near(torch.func.grad(total)(z), slope, own)
    near(torch.func.jvp(each, (z,), (ones,))[1], slope, hard.wide)
    near(torch.func.vmap(torch.func.grad(total))(torch.stack([z, z]))[1], slope, own)
    near(torch.func.jvp(torch.func.grad(total), (z,), (ones,))[1], curve, own)
    leaf = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
    near(torch.autograd.grad(found, leaf, ones)[0], curve, own)


def second(hard):
    """∂²loss/∂z² = s·(π·q + 1 − q)·σ(z)·σ(−z)."""
    settings = {"label_smoothing": 0.1, "pos_weight": 1.0, "sample_weight": 1.0} | hard.settings
    epsilon, positive, s = (
        np.asarray(settings[k]).astype(np.float64) for k in ("label_smoothing", "pos_weight", "sample_weight")
    )
    z, t = hard.logits.astype(np.float64), hard.targets.astype(np.float64)
    e = np.exp(-np.abs(z))
    with np.errstate(invalid="ignore"):
        q = t * (1 - epsilon) + epsilon / 2
        found = s * (positive * q + 1 - q) * e / (1 + e) ** 2
    return np.where(np.broadcast_to(s, z.shape) == 0, 0.0, found)


def through_jax(z, t, settings):
    """{transform: what it makes of the losses, each of which is one number's}."""
    jax, jnp, ms = need("jax"), need("jax.numpy"), need("multismooth.jax")

    def each(z, t):
        return ms.binary_loss(z, t, reduction="none", **settings)

    gradient, ones = jax.grad(lambda z: each(z, t).sum()), jnp.ones_like(z)
    found = {
        "loss": each(z, t),
        "vmap": jax.vmap(each)(jnp.stack([z, z]), jnp.stack([t, t]))[1],
        "grad": gradient(z),
        "jvp": jax.jvp(lambda z: each(z, t), (z,), (ones,))[1],
        "jvp of grad": jax.jvp(gradient, (z,), (ones,))[1],
        "grad of grad": jax.grad(lambda z: gradient(z).sum())(z),
    }
    return found if t.dtype == bool else found | {"grad of targets": jax.grad(lambda t: each(z, t).sum())(t)}


@cache
def compiled_by_jax():
    """One compiled function for all rows, so that those of one structure are compiled once."""
    return need("jax").jit(through_jax)


@pytest.mark.parametrize(("name", "mode"), [(n, "compiled") for n in ROWS] + [(n, "eager") for n in COMPILED])
def test_jax(name, mode):
    jax, jnp, ms, hard = need("jax"), need("jax.numpy"), need("multismooth.jax"), ROWS[name]
    with jax.enable_x64(hard.wide == "float64"):
        z, t = jnp.asarray(hard.logits), jnp.asarray(hard.targets)
        settings = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in hard.settings.items()}
        each = {k: v for k, v in settings.items() if k != "normalizer"}
        losses(ms.binary_loss(z, t, **settings), hard.expected("mean")[0], hard.wide)
        value, slope, turn = hard.expected("none")
        losses(ms.binary_loss(z, t, reduction="none", **each), value, hard.wide)
        found = (compiled_by_jax() if mode == "compiled" else through_jax)(z, t, each)
        losses(found["loss"], value, hard.wide)
        losses(found["vmap"], value, hard.wide)
        if not hard.finite:
            return
        near(found["grad"], slope, str(z.dtype))
        near(found["jvp"], slope, hard.wide)
        near(found["jvp of grad"], second(hard), str(z.dtype))
        near(found["grad of grad"], second(hard), str(z.dtype))
        if hard.targets.dtype != bool:
            near(found["grad of targets"], turn, str(t.dtype), scale=np.abs(turn).max(initial=1.0))
