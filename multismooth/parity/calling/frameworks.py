"""One class per framework: make its arrays from NumPy's, call a loss with them, differentiate, bring NumPy back."""

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

NOTHING: Mapping[str, Any] = MappingProxyType({})
QUICKLY = {"xla_backend_optimization_level": "0"}  # each program runs a few times only


class Call(NamedTuple):
    """How the arrays of a call are made: the logits' dtype and strides, and what else fn is given by keyword."""

    dtype: str = "float64"
    strided: bool = False
    given: Mapping[str, Any] = NOTHING


class Answer(NamedTuple):
    """What one call returned: `loss` is () or (N,), `gradient` that of the summed loss or None."""

    loss: np.ndarray
    gradient: Any
    precision: float  # of the coarsest dtype on the way
    written: bool = False  # fn wrote to its logits or labels
    more: bool = False  # fn returned a tuple, of which the loss is the first entry


def _parts(result, logits):
    """(loss, gradient or None) of what fn returned: a loss, (loss, gradient), or (loss, anything else)."""
    if not isinstance(result, (tuple, list)) or not result:
        return result, None
    loss, second = result[0], result[1] if len(result) > 1 else None
    is_gradient = getattr(second, "shape", None) == logits.shape and second is not logits
    return loss, second if is_gradient and bool((second != logits).any()) else None


def _array(value):
    return np.asarray(value, dtype=np.float64)


def _given(call, convert):
    return {
        name: convert(value, call.dtype if value.dtype.kind == "f" else None)
        if isinstance(value, np.ndarray)
        else value
        for name, value in call.given.items()
    }


class Torch:
    def __init__(self, fn, gradient=True):
        self.fn, self.gradient = fn, gradient

    def array(self, value, dtype=None):
        import torch

        tensor = torch.tensor(value)
        return tensor if dtype is None else tensor.to(getattr(torch, dtype))

    def arrays(self, z, y, call):
        import torch

        logits = self.array(z, call.dtype)
        logits = torch.stack([logits, -logits], -1)[..., 0] if call.strided else logits
        return logits, torch.tensor(y), _given(call, self.array)

    def __call__(self, z, y, call):
        import torch

        logits, labels, given = self.arrays(z, y, call)
        before = logits.double().numpy().copy()
        logits.requires_grad_(self.gradient)
        with torch.enable_grad():
            result = self.fn(logits, labels, **given)
        loss, slope = _parts(result, logits.detach())
        loss = torch.as_tensor(loss)
        if slope is None and self.gradient:
            (slope,) = torch.autograd.grad(loss.sum(), logits)
        precision = max(torch.finfo(x.dtype).eps for x in (loss, slope) if x is not None and x.is_floating_point())
        same = np.array_equal(logits.detach().double().numpy(), before, equal_nan=True)
        written = not (same and np.array_equal(labels.numpy(), y))
        slope = None if slope is None else _array(slope.detach().double())
        return Answer(_array(loss.detach().double()), slope, precision, written, isinstance(result, (tuple, list)))

    def pullback(self, z, y, call, cotangents):
        """The gradients of Σ cotangent·loss, one backward pass each through one graph; None where fn has its own."""
        import torch

        logits, labels, given = self.arrays(z, y, call)
        with torch.enable_grad():
            loss, slope = _parts(self.fn(logits.requires_grad_(), labels, **given), logits.detach())
        if slope is not None:
            return None
        cotangents = [self.array(np.reshape(c, tuple(loss.shape))).to(loss.dtype) for c in cotangents]
        slopes = [torch.autograd.grad(loss, logits, c, retain_graph=True)[0].clone() for c in cotangents]
        return [_array(slope.detach().double()) for slope in slopes]

    def other_way(self):
        """This, compiled if it runs eagerly and eagerly if it is compiled; None where there is no compiler."""
        import torch

        return Torch(torch.compile(self.fn))


class Jax:
    def __init__(self, fn, compiled=True):
        self.fn, self.jitted, self._programs = fn, compiled, {}

    def array(self, value, dtype=None):
        import jax.numpy as jnp

        return jnp.asarray(value, dtype=dtype)

    def differentiated(self, call):
        import jax

        fn = partial(self.fn, **_given(call, self.array)) if call.given else self.fn
        if not self.jitted:
            return partial(_jax_value_and_grad, fn)
        if isinstance(fn, jax.tree_util.Partial):
            return partial(_jitted_once(), fn)
        key = tuple((name, id(value)) for name, value in call.given.items())
        if key not in self._programs:
            program = jax.jit(partial(_jax_value_and_grad, fn), compiler_options=QUICKLY)
            self._programs[key] = program, call.given  # keeps what the ids name
        return self._programs[key][0]

    def __call__(self, z, y, call):
        import jax.numpy as jnp

        logits = self.array(z, call.dtype)
        loss, slope, autodiff, more = self.differentiated(call)(logits, jnp.asarray(y))
        slope = autodiff if slope is None or not bool((slope != logits).any()) else slope
        precision = max(float(jnp.finfo(jnp.asarray(x).dtype).eps) for x in (loss, slope))
        return Answer(_array(loss), _array(slope), precision, more=bool(more))

    def pullback(self, z, y, call, cotangents):
        """The gradients of Σ cotangent·loss; None where fn has its own."""
        import jax
        import jax.numpy as jnp

        fn = partial(self.fn, **_given(call, self.array))
        logits, labels = self.array(z, call.dtype), jnp.asarray(y)
        if _parts(fn(logits, labels), logits)[1] is not None:
            return None
        loss, back = jax.vjp(lambda z: _parts(fn(z, labels), z)[0], logits)
        return [_array(back(jnp.asarray(np.reshape(c, loss.shape), loss.dtype))[0]) for c in cotangents]

    def other_way(self):
        return Jax(self.fn, not self.jitted)


def _jax_value_and_grad(fn, logits, labels):
    """(loss, a gradient that fn itself returned or None, the gradient of the summed loss, whether fn returned more)."""
    import jax
    import jax.numpy as jnp

    def total(logits):
        loss, slope = fn(logits, labels), None
        if more := isinstance(loss, (tuple, list)):
            loss, slope = loss[0], loss[1] if len(loss) > 1 and jnp.shape(loss[1]) == logits.shape else None
        return jnp.sum(loss), (loss, slope, more)

    gradient, (loss, slope, more) = jax.grad(total, has_aux=True)(logits)
    return loss, slope, gradient, more


@cache
def _jitted_once():
    """For functions that are `jax.tree_util.Partial`s: their arguments are traced, so variants share one program."""
    import jax

    return jax.jit(_jax_value_and_grad, compiler_options=QUICKLY)


class Numpy:
    def __init__(self, fn):
        self.fn = fn

    def array(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def __call__(self, z, y, call):
        logits, labels = self.array(z, call.dtype), self.array(y)
        logits = np.stack([logits, -logits], -1)[..., 0] if call.strided else logits
        before = np.array(logits)
        result = self.fn(logits, labels, **_given(call, self.array))
        loss, slope = _parts(result, logits)
        dtypes = [np.asarray(x).dtype for x in (loss, slope) if x is not None]
        if any(dtype.kind != "f" for dtype in dtypes):
            raise TypeError(f"fn returned {type(loss).__name__} of dtype {dtypes[0]}, which is no loss")
        precision = max(float(np.finfo(dtype).eps) for dtype in dtypes)
        written = not (np.array_equal(logits, before, equal_nan=True) and np.array_equal(labels, y))
        slope = None if slope is None else _array(slope)
        return Answer(_array(loss), slope, precision, written, isinstance(result, (tuple, list)))

    def pullback(self, z, y, call, cotangents):
        return None

    def other_way(self):
        return None


class JaxValues(Numpy):
    """JAX arrays, no differentiation."""

    def array(self, value, dtype=None):
        import jax.numpy as jnp

        return jnp.asarray(value, dtype=dtype)


CALLERS = {
    "torch": Torch,
    "jax": Jax,
    "jax eagerly": partial(Jax, compiled=False),
    "numpy": Numpy,
    "torch values": partial(Torch, gradient=False),
    "jax values": JaxValues,
}
