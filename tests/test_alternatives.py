"""The losses beside smoothing: against the oracle in every backend, their laws, and where floating point is unkind."""

from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import oracle_alternatives
import pytest
from adapters import COMPILED, JAX, JIT, NUMPY, NUMPY_CHUNKED, NUMPY_SPEC, TORCH, TORCH_CHUNKED, suites
from oracle import floats
from problems import VARIATIONS, problem
from requirements import need
from test_conformance import along, each, snapshot, warnings_deserved
from tolerance import assert_close

import multismooth
import multismooth.numpy
from multismooth.cpu import alternatives as cpu_alternatives
from multismooth.parity.doctor import jax_x64

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself

NAMES = ("focal_loss", "confidence_penalty", "margin_smoothing", "distillation_loss")
STRUCTURES = {  # of random calls
    **{adapter.name: 40 for adapter in (NUMPY, NUMPY_CHUNKED, NUMPY_SPEC, TORCH, TORCH_CHUNKED)},
    **{JAX.name: 3, COMPILED.name: 1, JIT.name: 2},
}


@cache
def solved(name, seed):
    """(problem, arrays of the call, its settings, loss, gradient) of a random call, once for all backends."""
    structure, rng = np.random.default_rng(seed // VARIATIONS), np.random.default_rng(seed)
    label = name == "focal_loss" and structure.random() < 0.5
    drawn = problem(seed, reckless=False, **({"targets": "hard"} if label else {}))
    convention = drawn.settings.get("convention")
    if label and getattr(convention, "ignore_scope", "all") == "nll_only":
        label = False
    gamma = float(rng.choice([0.3, 1.0, 2.0, 3.5]))
    given = {
        "focal_loss": {"gamma": gamma, "modulation": "label" if label else "class"},
        "confidence_penalty": {"beta": float(rng.uniform(0.05, 2))},
        "margin_smoothing": {"margin": float(rng.choice([0.0, 0.5, 10.0])), "strength": float(rng.uniform(0.05, 2))},
        "distillation_loss": {"temperature": float(rng.choice([0.5, 1.0, 4.0])), "hard_weight": 0.3},
    }[name]
    teacher = None
    if name == "distillation_loss":  # whatever the logits hold where they count for nothing, the teacher holds too
        teacher = np.where(np.isfinite(drawn.logits), rng.normal(size=drawn.logits.shape) * 3, drawn.logits)
    loss, gradient = oracle_alternatives.evaluate(
        name, drawn.logits, drawn.targets, teacher=teacher, parameters=given, **drawn.settings
    )
    arrays = (drawn.logits, drawn.targets) if teacher is None else (drawn.logits, teacher, drawn.targets)
    return drawn, arrays, drawn.settings | given, floats(loss), floats(gradient)


class Alternatives:
    """What holds in every backend. A subclass names its `adapter`."""

    adapter = None

    @pytest.mark.parametrize("name", NAMES)
    def test_values_and_gradients(self, name):
        self.adapter.functions()
        seeds = range(0, STRUCTURES[self.adapter.name] * VARIATIONS, 3 if self.adapter is JAX else VARIATIONS)
        each(seeds, lambda seed: self.compare(name, seed), lambda seed: solved(name, seed)[0])

    def compare(self, name, seed):
        drawn, arrays, settings, expected, gradient = solved(name, seed)
        before = snapshot(*arrays, *settings.values())
        with warnings_deserved(drawn.quiet):
            if not self.adapter.autodiff_every:
                assert_close(self.adapter.call(name, *arrays, **settings), expected, "float64")
            else:
                cotangent = None
                if expected.ndim:
                    cotangent = np.random.default_rng(seed).normal(size=expected.shape)
                    gradient = along(drawn.settings.get("axis"), cotangent, gradient)
                value, (computed,) = self.adapter.value_and_grad(name, *arrays, cotangent=cotangent, **settings)
                assert_close(value, expected, "float64")
                assert_close(computed, gradient, "float64")
                assert not np.any(computed[gradient == 0]), "an entry that counts for nothing has a gradient"
        assert snapshot(*arrays, *settings.values()) == before, "an input was written to"


suites(globals(), lambda adapter: Alternatives)
for _name in [name for name, value in globals().items() if getattr(value, "adapter", None) is not None]:
    if globals()[_name].adapter.name not in STRUCTURES:
        del globals()[_name]


# --- laws -----------------------------------------------------------------------------------------------------------

LAWS = (  # the call that is `loss`, by number
    ("focal_loss", {"gamma": 0.0}),
    ("focal_loss", {"gamma": 0.0, "modulation": "label"}),
    ("confidence_penalty", {"beta": 0.0}),
    ("margin_smoothing", {"strength": 0.0}),
    ("distillation_loss", {"temperature": 3.0, "hard_weight": 1.0}),
)
MODULES = ("numpy", "torch", "jax")


def own(framework, value):
    """A NumPy array as the framework's."""
    if not isinstance(value, np.ndarray) or framework == "numpy":
        return value
    value = np.require(value, requirements="W")
    return need("torch").from_numpy(value) if framework == "torch" else need("jax.numpy").asarray(value)


def called(framework, name, *arrays, **settings):
    """The float64 result of a function of a framework's module, as a NumPy array."""
    function = getattr(import_module(f"multismooth.{framework}"), name)
    with jax_x64(True) if framework == "jax" else nullcontext():
        arrays = [own(framework, x) for x in arrays]
        return np.asarray(function(*arrays, **{key: own(framework, value) for key, value in settings.items()}))


@pytest.mark.thorough
@pytest.mark.parametrize("framework", MODULES)
@pytest.mark.parametrize(("name", "given"), LAWS)
def test_a_number_that_changes_nothing_leaves_the_loss(framework, name, given):
    """As a Python number it is `loss` itself, bit for bit; as an array the formulas say so."""
    need(framework)
    for seed in range(0, 30 if framework == "jax" else 300, VARIATIONS):
        drawn = problem(seed, targets="hard", reckless=False)
        if getattr(drawn.settings.get("convention"), "ignore_scope", "all") != "all" and "modulation" in given:
            continue
        teacher = (np.zeros_like(drawn.logits),) if name == "distillation_loss" else ()
        settings = {"label_smoothing": 0.0, **drawn.settings}
        with warnings_deserved(drawn.quiet):
            expected = called(framework, "loss", drawn.logits, drawn.targets, **settings)
            same = called(framework, name, drawn.logits, *teacher, drawn.targets, **settings, **given)
            assert same.tobytes() == expected.tobytes(), drawn
            arrays = {key: np.array(value) for key, value in given.items() if not isinstance(value, str)}
            formula = called(framework, name, drawn.logits, *teacher, drawn.targets, **settings, **given | arrays)
            assert_close(formula, expected, "float64")


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")  # which is what is shown
def test_distillation_is_what_others_make_of_it():
    """The factors of docs/beside-smoothing.md: PyTorch's reductions, DeiT's, and no T²."""
    torch = need("torch")
    functional = torch.nn.functional
    generator = torch.Generator().manual_seed(0)
    z, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for heat in (1.0, 4.0):
        ours = float(multismooth.distillation_loss(z, teacher, temperature=heat))
        log_p, q = functional.log_softmax(z / heat, 1), functional.softmax(teacher / heat, 1)
        assert float(functional.kl_div(log_p, q, reduction="batchmean")) == pytest.approx(ours / heat**2, rel=1e-12)
        assert float(functional.kl_div(log_p, q, reduction="mean")) == pytest.approx(ours / heat**2 / 5, rel=1e-12)
        deit = functional.kl_div(log_p, q.log(), reduction="sum", log_target=True) * heat**2 / log_p.numel()
        assert float(deit) == pytest.approx(ours / 5, rel=1e-12)


def test_the_authors_codes_of_margin_and_penalty():
    torch = need("torch")
    z, y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9, torch.arange(6) % 5
    own_loss = torch.nn.functional.cross_entropy(z, y)
    distances = torch.relu(z.max(1).values[:, None] - z - 10)
    assert float(multismooth.margin_smoothing(z, y)) == pytest.approx(
        float(own_loss + 0.1 * distances.mean()), rel=1e-12
    )
    entropy = torch.distributions.Categorical(logits=z).entropy().mean()
    assert float(multismooth.confidence_penalty(z, y, beta=0.3)) == pytest.approx(float(own_loss - 0.3 * entropy))


# --- kernels ----------------------------------------------------------------------------------------------------------

CALLS = (
    ("focal_loss", {}),
    ("focal_loss", {"gamma": 0.4}),
    ("focal_loss", {"gamma": 1.0, "label_smoothing": 0.1}),
    ("focal_loss", {"gamma": 2.5, "label_smoothing": 0.1}),
    ("focal_loss", {"gamma": 3.0, "label_smoothing": 0.2, "z_loss": 0.1}),
    ("focal_loss", {"gamma": 0.4, "label_smoothing": 0.1, "modulation": "label", "z_loss": 0.1}),
    ("focal_loss", {"gamma": 2.0, "label_smoothing": 0.1, "modulation": "label"}),
    ("confidence_penalty", {"beta": 0.5}),
    ("confidence_penalty", {"label_smoothing": 0.1, "z_loss": 0.1}),
    ("margin_smoothing", {"margin": 2.0, "strength": 0.7}),
    ("margin_smoothing", {"margin": 0.0, "label_smoothing": 0.1}),
    ("distillation_loss", {"temperature": 3.0}),
    ("distillation_loss", {"temperature": 0.5, "hard_weight": 0.3, "label_smoothing": 0.1}),
    *(("focal_loss", {"gamma": 2.5, "label_smoothing": 0.1, "logit_softcap": 5.0}),),
    *(("distillation_loss", {"temperature": 2.0, "hard_weight": 0.3, "logit_softcap": 30.0}),),
)


POWERS = tuple(("distillation_loss", {"temperature": t, "hard_weight": 0.5}) for t in (1.0, 2.0, 3.0, 4.0))


def rows(dtype):
    """(logits, teacher, labels) of 60 rows of 40 classes: confident rows, ties of the largest logit, ignored labels."""
    rng = np.random.default_rng(0)
    z, teacher, y = rng.normal(size=(60, 40)) * 4, rng.normal(size=(60, 40)) * 4, rng.integers(0, 40, 60)
    z[:8] *= 10
    z[np.arange(20, 28), y[20:28]] = 60.0  # certain and right
    z[30:34, :3] = 20.0
    y[40:44] = -100
    return z.astype(dtype), teacher.astype(dtype), y


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("kernel", ["numba", "chunked"])
def test_every_kernel_is_the_text(kernel, framework, dtype, monkeypatch):
    """In several parts; values, and in PyTorch gradients, with and without arrays per element and per class."""
    need(framework)
    if kernel == "numba":
        need("numba")
        from multismooth.cpu.compiled import alternatives as compiled

        monkeypatch.setattr(compiled, "PART", 500)
    monkeypatch.setattr(cpu_alternatives, "ENTRIES", 500)
    if framework == "torch":
        from multismooth.torch import cpu_alternatives as torch_alternatives

        monkeypatch.setattr(torch_alternatives, "CHUNK_LOGITS", 500)
    z, teacher, y = rows(dtype)
    weight, s = np.linspace(0.8, 1.2, 40), np.where(np.arange(60) % 7 == 0, 0.0, 1 + np.arange(60) / 60)
    prior = np.exp(np.arange(40) / 20)
    ran = set()
    for name, given in CALLS + POWERS:
        for extra in ({}, {"weight": weight, "sample_weight": s}, {"prior": prior / prior.sum(), "reduction": "sum"}):
            if name == "distillation_loss" and "hard_weight" not in given and set(extra) & {"weight", "prior"}:
                continue
            arrays, settings = (z, teacher, y) if name == "distillation_loss" else (z, y), given | extra
            expected, gradient = exact(name, arrays, settings)
            with multismooth.implementation(kernel, "chunked") as names:
                value, computed = values_and_gradient(framework, name, arrays, settings)
            ran |= set(names)
            assert_close(value, expected, dtype, 40, scale=np.abs(expected) if dtype == "float32" else 1.0)
            if computed is not None:
                assert_close(computed, gradient, dtype, 40)
    assert kernel in ran


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pytorchs_kernel_repairs_what_it_cannot_compute(dtype, monkeypatch):
    """Infinities, NaN, large common offsets, ignored elements that hold anything; in rows and in images."""
    need("torch")
    from multismooth.torch import cpu_alternatives as torch_alternatives

    repaired = []

    def repair(losses, which, *arguments):
        repaired.append(int(which.sum()))
        cpu_alternatives.repair(losses, which, *arguments)

    monkeypatch.setattr(torch_alternatives, "CHUNK_LOGITS", 500)
    monkeypatch.setattr(torch_alternatives, "repair", repair)
    z, teacher, y = rows(dtype)
    z[44:52] += 2**12
    teacher[48:55] -= 2**12
    z[56, 3], z[57, y[57]], z[58, 1], z[59, 2], z[43, :7] = -np.inf, -np.inf, np.inf, np.nan, np.nan
    teacher[56, 3], teacher[55, 4], teacher[43, 2] = -np.inf, np.nan, np.inf
    for number, (name, given) in enumerate(CALLS):
        if given.get("temperature") == 3.0:
            given = {"temperature": 2.0}  # at 3 the formulas lose the digits of an offset
        settings = given | {"reduction": "none", "axis": 1}
        expected = exact(name, (z, teacher, y) if name == "distillation_loss" else (z, y), settings)
        repaired.clear()
        for positions in (1, 12) if number % 2 else (1,):
            images = [to_images(x, positions) for x in (z, teacher, y)]
            with multismooth.implementation("chunked"):
                found = values_and_gradient("torch", name, images if "temperature" in given else images[::2], settings)
            for own, right in zip(found, expected, strict=True):
                assert_close(own, to_images(right, positions), dtype, 40, scale=1.0 if dtype == "float64" else 8.0)
        assert 0 < sum(repaired) <= 12, "more or fewer than the elements with an infinity or NaN"


def to_images(rows, positions):
    """(60, …) as (60/positions, …, positions), or as it is for one position."""
    if positions == 1:
        return rows
    return np.ascontiguousarray(np.moveaxis(rows.reshape(-1, positions, *rows.shape[1:]), 1, -1))


def test_jax_in_blocks_is_the_text(monkeypatch):
    """A shape of its own, which no other test has compiled."""
    jax = need("jax")
    from multismooth.jax import blocks

    monkeypatch.setattr(blocks, "MIN_LOGITS_BLOCKS", 0)
    monkeypatch.setattr(blocks, "LOGITS_PER_BLOCK", 200)
    z, teacher, y = (x[:59] for x in rows("float64"))
    weight, mask = np.linspace(0.8, 1.2, 40), np.ones((59, 40), bool)
    mask[:, 39], mask[5, 38] = False, False
    y[y >= 38] = 1
    s = 1 + np.arange(59) / 60
    extras = {"weight": weight, "sample_weight": s}, {"class_mask": mask}, {"class_mask": mask[0]}, {}
    chosen = [(*CALLS[k], extra) for k, extra in zip((0, 5, 8, 9, 12), (*extras, extras[1]), strict=True)]
    chosen += [(*CALLS[-1], extras[1]), ("loss", {"logit_softcap": 5.0, "z_loss": 0.1}, extras[0])]

    @jax.jit
    def all_of_them(z, teacher):
        def loss(z, name, settings):
            arrays = (teacher, y) if name == "distillation_loss" else (y,)
            return getattr(multismooth.jax, name)(z, *arrays, **settings)

        return [jax.value_and_grad(loss)(z, name, given | extra) for name, given, extra in chosen]

    with jax_x64(True):
        found = all_of_them(jax.numpy.asarray(z), jax.numpy.asarray(teacher))
    for (name, given, extra), (value, gradient) in zip(chosen, found, strict=True):
        expected = exact(name, (z, teacher, y) if name == "distillation_loss" else (z, y), given | extra)
        assert_close(np.asarray(value), expected[0], "float64")
        assert_close(np.asarray(gradient), expected[1], "float64")


def exact(name, arrays, settings):
    """(loss, gradient) in float64 by the formulas."""
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
    with multismooth.implementation("spec"):
        if name == "loss":  # which PyTorch computes by kernels alone
            return multismooth.numpy.loss_and_grad(*wide, **settings)
        return values_and_gradient("torch", name, wide, settings)


def values_and_gradient(framework, name, arrays, settings):
    if framework == "numpy":
        return np.asarray(getattr(multismooth.numpy, name)(*arrays, **settings)), None
    torch = need("torch")
    z, *others = (torch.from_numpy(x) for x in arrays)
    z = z.clone().requires_grad_()
    settings = {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in settings.items()}
    value = getattr(multismooth.torch, name)(z, *others, **settings)
    return value.detach().numpy(), torch.autograd.grad(value.sum(), z)[0].numpy()


# --- derivatives ------------------------------------------------------------------------------------------------------


def losses(ms, teacher, targets):
    """One function of the logits for each entry of CALLS."""

    def loss(name, given):
        arrays = (teacher, targets) if name == "distillation_loss" else (targets,)
        return lambda z, **more: getattr(ms, name)(z, *arrays, **given | more)

    return [loss(name, given) for name, given in CALLS]


@pytest.mark.parametrize(
    "number", range(len(CALLS)), ids=[f"{name}-{number}" for number, (name, _) in enumerate(CALLS)]
)
def test_torch_differentiates_in_every_way(number):
    torch = need("torch")
    generator = torch.Generator().manual_seed(1)
    z, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    function = losses(multismooth.torch, teacher, torch.tensor([0, 2, -100]))[number]
    z.requires_grad_()
    assert torch.autograd.gradcheck(function, z, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(lambda z: function(z, reduction="none"), z)
    assert torch.autograd.gradgradcheck(function, z)
    (gradient,) = torch.autograd.grad(function(z), z)
    fixed = z.detach()
    torch.testing.assert_close(torch.func.grad(function)(fixed), gradient)
    _, tangent = torch.func.jvp(function, (fixed,), (torch.ones_like(fixed),))
    torch.testing.assert_close(tangent, gradient.sum())
    several = torch.func.vmap(torch.func.grad(function))(torch.stack([fixed, 2 * fixed]))
    torch.testing.assert_close(several[0], gradient)


def test_jax_differentiates_in_every_way():
    jax, jnp = need("jax"), need("jax.numpy")
    with jax_x64(True):
        z, teacher = jax.random.normal(jax.random.key(0), (2, 3, 4), dtype=float) * 3
        chosen = [losses(multismooth.jax, teacher, jnp.array([0, 2, -100]))[k] for k in (0, 5, 7, 9, 12)]

        def everything(z):
            """Values, gradients, tangents, vmapped gradients and Hessians, all in one compilation."""
            found = []
            for function in chosen:
                value, gradient = jax.value_and_grad(function)(z)
                _, tangent = jax.jvp(function, (z,), (jnp.ones_like(z),))
                several = jax.vmap(jax.grad(function))(jnp.stack([z, 2 * z]))
                found.append((value, gradient, tangent, several, jax.hessian(function)(z)))
            return found

        step = 1e-5
        for function, (value, gradient, tangent, several, hessian) in zip(chosen, jax.jit(everything)(z), strict=True):
            np.testing.assert_allclose(value, function(z), rtol=1e-12)
            np.testing.assert_allclose(tangent, gradient.sum(), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(several[0], gradient, rtol=1e-9, atol=1e-12)
            slope = jax.jit(jax.grad(function))
            for index in ((0, 0), (1, 2), (2, 1)):
                moved = [slope(z.at[index].add(by)) for by in (step, -step)]
                np.testing.assert_allclose(hessian[index], (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-8)


UNKIND = np.array(
    [[800.0, 0, 0], [0, -800.0, 1], [900.0, -np.inf, 0], [0, 0, np.nan], [np.nan, np.nan, np.nan], [0, 1e-9, 0]]
)
UNKIND_MASK = np.array([[True] * 3] * 3 + [[True, True, False]] + [[True] * 3] * 2)
UNKIND_LABELS = np.array([0, 2, 0, 1, -100, 1])


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_finite_where_probabilities_are_0_or_1(framework, smoothing):
    """By the closed form, by autodiff, and second derivatives; absent classes and ignored rows get 0."""
    need(framework)
    infinite = smoothing > 0  # then the loss at a logit of −inf is infinite, and its gradient is not
    for gamma in (0.0, 0.3, 1.0, 2.0):
        for modulation in ("class", "label"):
            given = {"gamma": np.array(gamma), "modulation": modulation, "label_smoothing": smoothing}
            each = derivatives(framework, "focal_loss", UNKIND, UNKIND_LABELS, class_mask=UNKIND_MASK, **given)
            for order, found in enumerate(each):
                rows = [0, 1, 3, 4, 5] if infinite and order == 2 else range(6)
                assert np.isfinite(found[list(rows)]).all(), (gamma, modulation, order, found)
                assert not found[4].any()
                assert not found[3, 2].any()


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_added_terms_are_finite_too(framework):
    need(framework)
    for name, given in (
        ("confidence_penalty", {}),
        ("margin_smoothing", {"margin": 1.0}),
        ("distillation_loss", {"temperature": 2.0}),
    ):
        arrays = (UNKIND, np.where(np.isnan(UNKIND), UNKIND, UNKIND[::-1])) if "temperature" in given else (UNKIND,)
        if len(arrays) == 2:
            arrays[1][1:3] = arrays[1][5] = [5.0, -np.inf, 1.0]
        for found in derivatives(framework, name, *arrays, UNKIND_LABELS, class_mask=UNKIND_MASK, **given):
            assert np.isfinite(found).all(), (name, found)
            assert not found[4].any()


def derivatives(framework, name, *arrays, **settings):
    """(the gradient, that of the formulas under a transform, a Hessian's product) of the sum of the losses."""
    function, settings = getattr(import_module(f"multismooth.{framework}"), name), settings | {"reduction": "sum"}
    with jax_x64(True) if framework == "jax" else nullcontext():
        z, *others = (own(framework, x.copy()) for x in arrays)
        settings = {key: own(framework, value) for key, value in settings.items()}

        def loss(z):
            return function(z, *others, **settings)

        if framework == "torch":
            torch = need("torch")
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(z), z)
            (second,) = torch.autograd.grad(torch.autograd.grad(loss(z), z, create_graph=True)[0].nan_to_num().sum(), z)
            return gradient.numpy(), torch.func.grad(loss)(z.detach()).numpy(), second.numpy()
        jax = need("jax")
        return tuple(map(np.asarray, (jax.grad(loss)(z), jax.grad(lambda z: jax.grad(loss)(z).sum())(z))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    torch = need("torch")
    half = getattr(torch, dtype)
    z, teacher, y = rows("float32")
    z, teacher = (torch.from_numpy(np.clip(x, -30, 30)).to(half) for x in (z, teacher))
    for function in losses(multismooth.torch, teacher.double(), torch.from_numpy(y)):
        wide = z.double().requires_grad_()
        (expected,) = torch.autograd.grad(function(wide) * 65536, wide)
        narrow = z.clone().requires_grad_()
        value = function(narrow)
        assert value.dtype is torch.float32
        (gradient,) = torch.autograd.grad(value * 65536, narrow)
        assert gradient.dtype is half
        error = (gradient.double() - expected).abs()
        assert bool((error <= expected.abs() * torch.finfo(half).eps / 2 * 1.01 + 65536 * 2e-9).all())


def test_the_teacher_gets_no_gradient_and_ignored_rows_are_nothing():
    torch = need("torch")
    z, teacher = torch.zeros(3, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    loss = multismooth.distillation_loss(z, teacher + torch.eye(3, 4), temperature=2.0)
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None,)
    with torch.no_grad():
        z[1] = teacher[1] = float("nan")
    for name, given in CALLS:
        arrays = (z, teacher) if name == "distillation_loss" else (z,)
        value = getattr(multismooth, name)(*arrays, torch.tensor([0, -100, 2]), **given)
        (gradient,) = torch.autograd.grad(value, z)
        assert not any(gradient[1].numpy().tobytes())
        assert torch.isfinite(value)


def test_a_student_needs_no_targets():
    z, teacher = np.random.default_rng(0).normal(size=(2, 5, 4))
    expected = multismooth.distillation_loss(z, teacher, np.arange(5) % 4, temperature=2.0)
    assert multismooth.distillation_loss(z, teacher, temperature=2.0) == expected
    mask = np.array([False, True, True, True])
    restricted = multismooth.distillation_loss(z[:, 1:], teacher[:, 1:], temperature=2.0)
    masked = multismooth.distillation_loss(z, teacher, temperature=2.0, class_mask=mask)
    assert masked == pytest.approx(restricted, rel=1e-12)
    rows_of = multismooth.distillation_loss(z, teacher, temperature=2.0, class_mask=np.broadcast_to(mask, (5, 4)))
    assert rows_of == pytest.approx(restricted, rel=1e-12)
    weight = np.array([1.0, 0, 0, 2.0, 0])
    weighted = multismooth.distillation_loss(z, teacher, temperature=2.0, sample_weight=weight)
    each = multismooth.distillation_loss(z, teacher, temperature=2.0, reduction="none")
    assert weighted == pytest.approx((each * weight).sum() / 3, rel=1e-12)


@pytest.mark.parametrize("framework", MODULES)
def test_a_temperature_must_be_given(framework):
    need(framework)
    with pytest.raises(TypeError, match="missing 'temperature'"):
        called(framework, "distillation_loss", np.zeros((2, 3)), np.ones((2, 3)), np.array([0, 2]))


@pytest.mark.compiles
def test_numbers_that_no_check_can_read_become_nan():
    jax = need("jax")
    z, y = jax.numpy.zeros((2, 3)), jax.numpy.array([0, 2])

    @jax.jit
    def each(bad):
        return (
            multismooth.focal_loss(z, y, gamma=bad),
            multismooth.confidence_penalty(z, y, beta=bad),
            multismooth.margin_smoothing(z, y, margin=bad),
            multismooth.margin_smoothing(z, y, strength=bad),
            multismooth.distillation_loss(z, z + 1, y, temperature=bad),
            multismooth.distillation_loss(z, z + 1, y, temperature=1.0, hard_weight=bad),
        )

    assert np.isnan(each(-1.0)).all()
    assert np.isfinite(each(0.5)).all()


def test_a_schedule_of_gamma_compiles_once():
    jax = need("jax")
    z, y, traces = jax.numpy.zeros((2, 3)), jax.numpy.array([0, 2]), []

    @jax.jit
    def loss(gamma):
        traces.append(gamma)
        return multismooth.focal_loss(z, y, gamma=gamma)

    assert len({float(loss(gamma)) for gamma in (0.5, 1.0, 2.0)}) == 3
    assert len(traces) == 1


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("exclude", [(), (2,)], ids=["all", "one excluded"])
@pytest.mark.parametrize("rows", [False, True], ids=["(K,)", "(N, K)"])
def test_a_teacher_alone_with_a_class_mask_is_one_without_the_absent_classes(framework, exclude, rows):
    module, rng = need(f"multismooth.{framework}"), np.random.default_rng(0)
    array = need("torch").from_numpy if framework == "torch" else np.asarray
    z, teacher, mask = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), np.array([False, False, True, True, True])
    convention = replace(multismooth.conventions["torch"], exclude=exclude)
    given = {"class_mask": array(np.tile(mask, (4, 1)) if rows else mask), "convention": convention}
    found = module.distillation_loss(array(z), array(teacher), temperature=2.0, **given)
    expected = multismooth.numpy.distillation_loss(z[:, mask], teacher[:, mask], temperature=2.0)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)
