"""One class per framework. It converts NumPy arrays, calls a loss with them, differentiates it, and converts back."""

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

FRAMEWORKS = ("torch", "jax", "numpy")
NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})
FAST_COMPILATION = {"xla_backend_optimization_level": "0"}  # each program runs a few times only


class CallOptions(NamedTuple):
    """How the arrays of a call are made: the logits' dtype and strides, and fn's keyword arguments."""

    dtype: str = "float64"
    strided: bool = False
    keywords: Mapping[str, Any] = NO_KEYWORDS


class Answer(NamedTuple):
    """What one call returned: `loss` is () or (N,), `gradient` that of the summed loss or None."""

    loss: np.ndarray
    gradient: Any
    precision: float  # machine epsilon of the coarser dtype of loss and gradient
    inputs_changed: bool = False  # fn wrote to its logits or labels
    is_tuple: bool = False  # fn returned a tuple whose first entry is the loss
    noise: tuple[float, float] | None = None  # how far rounding moves loss and gradient, where it was measured
    second: Any = None  # the second entry of such a tuple, as an array, where it is no gradient


class NoLoss(TypeError):
    """fn could be called, and what it returned is no loss."""

    def __init__(self, got, remedy):
        super().__init__(got)
        self.remedy = remedy


def _first(result):
    """The loss in what fn returned: itself, or the first of several. Raises NoLoss for what has none in this place."""
    if isinstance(result, Mapping):
        names = ", ".join(map(repr, list(result)[:6]))
        own = "loss" if "loss" in result else next(iter(result), "loss")
        raise NoLoss(f"a dict with {names or 'no keys'}", f'Return its loss: lambda z, y: fn(z, y)["{own}"].')
    if hasattr(result, "loss") and not hasattr(result, "shape"):
        raise NoLoss(f"a {type(result).__name__}", "Return its loss: lambda z, y: fn(z, y).loss.")
    if result is None or isinstance(result, str):
        raise NoLoss(f"{result!r}", "End the function with return loss.")
    return result[0] if isinstance(result, (tuple, list)) and result else result


def _loss_and_gradient(result, logits):
    """(loss, gradient or None) of what fn returned: a loss, (loss, gradient), or (loss, anything else)."""
    loss = _first(result)
    second = result[1] if isinstance(result, (tuple, list)) and len(result) > 1 else None
    is_gradient = getattr(second, "shape", None) == logits.shape and second is not logits
    return loss, second if is_gradient and bool((second != logits).any()) else None


def _second(result, gradient):
    """The second value of a tuple as a float64 array; None where there is none, or it is the gradient or no number."""
    if gradient is not None or not isinstance(result, (tuple, list)) or len(result) < 2:
        return None
    try:
        value = result[1].detach().double() if hasattr(result[1], "detach") else result[1]
        return _float64(value)
    except (TypeError, ValueError):
        return None


def _float64(value):
    return np.asarray(value, dtype=np.float64)


def _converted(options, convert):
    """The keyword arguments, their arrays converted; floating arrays in the dtype of the logits."""
    return {
        name: convert(value, options.dtype if value.dtype.kind == "f" else None)
        if isinstance(value, np.ndarray)
        else value
        for name, value in options.keywords.items()
    }


class Torch:
    def __init__(self, fn, differentiate=True):
        self.fn, self.differentiate = fn, differentiate

    def array(self, value, dtype=None):
        import torch

        tensor = torch.tensor(value)
        return tensor if dtype is None else tensor.to(getattr(torch, dtype))

    def arguments(self, z, y, options):
        """(logits, labels, keyword arguments) as tensors."""
        import torch

        logits = self.array(z, options.dtype)
        logits = torch.stack([logits, -logits], -1)[..., 0] if options.strided else logits
        return logits, self.array(y, options.dtype if y.dtype.kind == "f" else None), _converted(options, self.array)

    def __call__(self, z, y, options):
        import torch

        logits, labels, keywords = self.arguments(z, y, options)
        before = logits.double().numpy().copy()
        logits.requires_grad_(self.differentiate)
        with torch.enable_grad():
            result = self.fn(logits, labels, **keywords)
        loss, gradient = _loss_and_gradient(result, logits.detach())
        loss, second = torch.as_tensor(loss), _second(result, gradient)
        if gradient is None and self.differentiate:
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
        floating = [x for x in (loss, gradient) if x is not None and x.is_floating_point()]
        return Answer(
            _float64(loss.detach().double()),
            None if gradient is None else _float64(gradient.detach().double()),
            precision=max(torch.finfo(x.dtype).eps for x in floating),
            inputs_changed=not (
                np.array_equal(logits.detach().double().numpy(), before, equal_nan=True)
                and np.array_equal(labels.double().numpy(), y)
            ),
            is_tuple=isinstance(result, (tuple, list)),
            second=second,
        )

    def gradients(self, z, y, options, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass. None where fn returns its own."""
        import torch

        logits, labels, keywords = self.arguments(z, y, options)
        with torch.enable_grad():
            result = self.fn(logits.requires_grad_(), labels, **keywords)
        loss, gradient = _loss_and_gradient(result, logits.detach())
        if gradient is not None:
            return None
        cotangents = [self.array(np.reshape(c, tuple(loss.shape))).to(loss.dtype) for c in cotangents]
        found = [torch.autograd.grad(loss, logits, c, retain_graph=True)[0].clone() for c in cotangents]
        return [_float64(gradient.detach().double()) for gradient in found]

    def with_other_compilation(self):
        """The same loss, compiled. None where there is no compiler."""
        import torch

        return Torch(torch.compile(self.fn))


class Jax:
    def __init__(self, fn, compiled=True):
        self.fn, self.compiled, self._programs = fn, compiled, {}

    def array(self, value, dtype=None):
        import jax.numpy as jnp

        return jnp.asarray(value, dtype=dtype)

    def differentiated(self, options):
        """fn as a function of (logits, labels) that returns what `_jax_value_and_grad` does; compiled if asked for."""
        import jax

        fn = partial(self.fn, **_converted(options, self.array)) if options.keywords else self.fn
        if not self.compiled:
            return partial(_jax_value_and_grad, fn)
        if isinstance(fn, jax.tree_util.Partial):
            return partial(_jitted_once(), fn)
        key = tuple((name, id(value)) for name, value in options.keywords.items())
        if key not in self._programs:
            program = jax.jit(partial(_jax_value_and_grad, fn), compiler_options=FAST_COMPILATION)
            self._programs[key] = program, options.keywords  # kept alive, so that no other object gets their ids
        return self._programs[key][0]

    def __call__(self, z, y, options):
        import jax.numpy as jnp

        logits = self.array(z, options.dtype)
        labels = self.array(y, options.dtype if y.dtype.kind == "f" else None)
        loss, own, autodiff, second, is_tuple = self.differentiated(options)(logits, labels)
        gradient = autodiff if own is None or not bool((own != logits).any()) else own
        precision = max(float(jnp.finfo(jnp.asarray(x).dtype).eps) for x in (loss, gradient))
        second = None if second is None or own is not None else _float64(second)
        return Answer(_float64(loss), _float64(gradient), precision, is_tuple=bool(is_tuple), second=second)

    def gradients(self, z, y, options, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent. None where fn returns its own."""
        import jax
        import jax.numpy as jnp

        fn = partial(self.fn, **_converted(options, self.array))
        logits, labels = self.array(z, options.dtype), self.array(y, options.dtype if y.dtype.kind == "f" else None)
        if _loss_and_gradient(fn(logits, labels), logits)[1] is not None:
            return None
        loss, backward = jax.vjp(lambda z: _loss_and_gradient(fn(z, labels), z)[0], logits)
        cotangents = [jnp.asarray(np.reshape(c, loss.shape), loss.dtype) for c in cotangents]
        return [_float64(backward(cotangent)[0]) for cotangent in cotangents]

    def with_other_compilation(self):
        """The same loss, eager where this one is compiled and compiled where this one is eager."""
        return Jax(self.fn, not self.compiled)


def _jax_value_and_grad(fn, logits, labels):
    """(loss, fn's own gradient or None, the gradient of the summed loss, fn's second value, whether it has several)."""
    import jax
    import jax.numpy as jnp

    def total(logits):
        result, own, second = fn(logits, labels), None, None
        if (is_tuple := isinstance(result, (tuple, list))) and len(result) > 1:
            is_array = isinstance(result[1], (jax.Array, np.ndarray, float, int))
            second = jnp.asarray(result[1]) if is_array else None
            own = result[1] if is_array and jnp.shape(result[1]) == logits.shape else None
        loss = _first(result)
        return jnp.sum(loss), (loss, own, second, is_tuple)

    gradient, (loss, own, second, is_tuple) = jax.grad(total, has_aux=True)(logits)
    return loss, own, gradient, second, is_tuple


@cache
def _jitted_once():
    """For functions that are `jax.tree_util.Partial`s: their arguments are traced, so variants share one program."""
    import jax

    return jax.jit(_jax_value_and_grad, compiler_options=FAST_COMPILATION)


class Numpy:
    def __init__(self, fn):
        self.fn = fn

    def array(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def __call__(self, z, y, options):
        logits, labels = self.array(z, options.dtype), self.array(y, options.dtype if y.dtype.kind == "f" else None)
        logits = np.stack([logits, -logits], -1)[..., 0] if options.strided else logits
        before, given = np.array(logits), np.array(labels)
        result = self.fn(logits, labels, **_converted(options, self.array))
        loss, gradient = _loss_and_gradient(result, logits)
        dtypes = [np.asarray(x).dtype for x in (loss, gradient) if x is not None]
        if any(dtype.kind != "f" for dtype in dtypes):
            raise TypeError(f"fn returned {type(loss).__name__} of dtype {dtypes[0]}, which is no loss")
        unchanged = np.array_equal(logits, before, equal_nan=True) and np.array_equal(labels, given)
        return Answer(
            _float64(loss),
            None if gradient is None else _float64(gradient),
            precision=max(float(np.finfo(dtype).eps) for dtype in dtypes),
            inputs_changed=not unchanged,
            is_tuple=isinstance(result, (tuple, list)),
            second=_second(result, gradient),
        )

    def gradients(self, z, y, options, cotangents):
        """None: there is no automatic differentiation."""
        return None

    def with_other_compilation(self):
        """None: there is no compiler."""
        return None


class JaxValues(Numpy):
    """JAX arrays, no differentiation."""

    def array(self, value, dtype=None):
        import jax.numpy as jnp

        return jnp.asarray(value, dtype=dtype)


MODES = {
    "torch": Torch,
    "jax": Jax,
    "jax eagerly": partial(Jax, compiled=False),
    "numpy": Numpy,
    "torch values": partial(Torch, differentiate=False),
    "jax values": JaxValues,
}
