"""The contenders of `cpu.py`. Each is a function without arguments that computes loss and gradient of one problem."""

import importlib.util
import warnings
from contextlib import nullcontext

import numpy as np

SMOOTHING = 0.1


def installed(package):
    return importlib.util.find_spec(package) is not None


class Problem:
    """Logits 3·randn with classes on axis 1, and labels. All frameworks get the same ones."""

    def __init__(self, shape, dtype):
        import torch

        generator = np.random.default_rng(0)
        logits = torch.from_numpy(3 * generator.standard_normal(shape, np.float32))
        self.shape, self.dtype = shape, dtype
        self.logits = logits.to(getattr(torch, dtype))
        self.labels = torch.from_numpy(generator.integers(0, shape[1], (shape[0], *shape[2:])))
        self.leaf = self.logits.clone().requires_grad_()
        self.out = torch.zeros_like(self.logits)

    @property
    def bytes(self):
        return self.logits.numel() * self.logits.itemsize


def torch_eager(problem, loss=None, **options):
    import torch.nn.functional as F

    loss = loss or F.cross_entropy

    def run():
        value = loss(problem.leaf, problem.labels, label_smoothing=SMOOTHING, **options)
        value.backward()
        gradient, problem.leaf.grad = problem.leaf.grad, None
        return value.detach(), gradient

    return run


def with_kernels(names, run):
    """`run`, marked to use the implementations of this library that are named; without names the library chooses."""
    run.names = names
    return run


def kernels_of(run):
    """A context with the implementations for `run`. It is entered before the clock starts."""
    import multismooth

    names = getattr(run, "names", ())
    return multismooth.implementation(*names) if names else nullcontext()


def run_once(run):
    with kernels_of(run):
        return run()


def torch_ours(problem, *names):
    import multismooth.torch

    return with_kernels(names, torch_eager(problem, multismooth.torch.loss, axis=1))


def torch_out(problem, *names):
    import multismooth.torch

    def run():
        return multismooth.torch.loss_and_grad(
            problem.logits, problem.labels, label_smoothing=SMOOTHING, axis=1, out=problem.out
        )

    return with_kernels(names, run)


def torch_compiled(problem):
    import torch
    import torch.nn.functional as F

    return torch_eager(problem, torch.compile(F.cross_entropy))


def numpy_ours(problem, *names, out=False):
    import multismooth.numpy

    logits, labels = problem.logits.numpy(), problem.labels.numpy()
    target = problem.out.numpy() if out else None

    def run():
        return multismooth.numpy.loss_and_grad(logits, labels, label_smoothing=SMOOTHING, axis=1, out=target)

    return with_kernels(names, run)


def scipy(problem):
    """What most NumPy code does: SciPy's log softmax, then its exponential."""
    from scipy.special import log_softmax

    logits, labels = problem.logits.numpy(), np.expand_dims(problem.labels.numpy(), 1)
    count, classes = labels.size, logits.shape[1]

    def run():
        lp = log_softmax(logits, axis=1)
        own = np.take_along_axis(lp, labels, 1)
        loss = -((1 - SMOOTHING) * own.sum() + SMOOTHING / classes * lp.sum()) / count
        gradient = np.exp(lp, out=lp)
        gradient -= SMOOTHING / classes
        np.put_along_axis(gradient, labels, np.take_along_axis(gradient, labels, 1) - (1 - SMOOTHING), 1)
        gradient /= count
        return loss, gradient

    return run


def jax_loss(problem, loss):
    import jax
    import jax.numpy as jnp

    logits, labels = jnp.asarray(problem.logits.numpy()), jnp.asarray(problem.labels.numpy().astype(np.int32))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return lambda: jax.block_until_ready(compiled(logits, labels))


def optax_one_hot(problem):
    import jax
    import jax.numpy as jnp
    import optax

    def loss(z, y):
        z = jnp.moveaxis(z, 1, -1)
        q = optax.smooth_labels(jax.nn.one_hot(y, z.shape[-1]), SMOOTHING)
        return optax.softmax_cross_entropy(z, q).mean()

    return jax_loss(problem, loss)


def optax_integer(problem):
    """Optax's integer loss, smoothed in closed form by hand."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss(z, y):
        z = jnp.moveaxis(z, 1, -1)
        hard = optax.softmax_cross_entropy_with_integer_labels(z, y)
        return ((1 - SMOOTHING) * hard + SMOOTHING * (jax.nn.logsumexp(z, -1) - z.mean(-1))).mean()

    return jax_loss(problem, loss)


def jax_ours(problem):
    import multismooth.jax

    return jax_loss(problem, lambda z, y: multismooth.jax.loss(z, y, label_smoothing=SMOOTHING, axis=1))


def copy(problem):
    """The floor: a copy of the logits into existing memory."""
    return lambda: (None, problem.out.copy_(problem.logits))


BASE, FLOOR = "torch eager", "copy (floor)"
# name: (makes the function from a problem, its framework, the packages that it needs)
CONTENDERS = {
    BASE: (torch_eager, "torch", ()),
    "torch.compile": (torch_compiled, "torch", ()),
    "multismooth.torch": (lambda p: torch_ours(p, "fused"), "torch", ()),
    "multismooth.torch, fast": (lambda p: torch_ours(p), "torch", ("numba",)),
    "multismooth.torch, out=": (lambda p: torch_out(p, "fused"), "torch", ()),
    "multismooth.torch, fast, out=": (lambda p: torch_out(p), "torch", ("numba",)),
    "SciPy log_softmax": (scipy, "numpy", ("scipy",)),
    "multismooth.numpy": (lambda p: numpy_ours(p, "fused"), "numpy", ()),
    "multismooth.numpy, fast": (lambda p: numpy_ours(p), "numpy", ("numba",)),
    "multismooth.numpy, out=": (lambda p: numpy_ours(p, "fused", out=True), "numpy", ()),
    "multismooth.numpy, fast, out=": (lambda p: numpy_ours(p, out=True), "numpy", ("numba",)),
    "optax one-hot": (optax_one_hot, "jax", ("jax", "optax")),
    "optax integer + closed form": (optax_integer, "jax", ("jax", "optax")),
    "multismooth.jax": (jax_ours, "jax", ("jax",)),
    FLOOR: (copy, "torch", ()),
}


def available(dtype, frameworks):
    """The names of the contenders that can run here. NumPy and JAX are timed in float32 only."""
    for name, (_, framework, packages) in CONTENDERS.items():
        requested = framework in frameworks or name in (BASE, FLOOR)
        if requested and all(map(installed, packages)) and (framework == "torch" or dtype == "float32"):
            yield name


def make(name, problem):
    """The contender's function, which was called once to compile. None, with a warning, if it cannot run here."""
    try:
        run = CONTENDERS[name][0](problem)
        run_once(run)
    except Exception as error:  # for example a missing compiler; the others are still timed
        warnings.warn(f"{name} left out: {type(error).__name__}: {str(error).splitlines()[0]}", stacklevel=2)
        return None
    return run
