"""Calls losses of JAX, compiled or eagerly."""

from contextlib import contextmanager
from functools import cache, partial

import numpy as np

from multismooth.parity.calling.answers import EPS, Answer, converted, first, float64

QUICK_XLA = {"xla_backend_optimization_level": "0"}  # each program runs a few times only
QUICKER_XLA = {  # half the time of compiling; not every XLA knows all of them
    **QUICK_XLA,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class Jax:
    def __init__(self, fn, compiled=True):
        self.fn, self.compiled, self._programs = fn, compiled, {}

    def array(self, value, dtype=None):
        import jax

        return jax.device_put(_cast(value, dtype))  # which compiles no program

    def arguments(self, z, y, options):
        """(logits, labels): JAX's arrays where fn sees them; a program takes NumPy's, and faster."""
        array = _cast if self.compiled else self.array
        return array(z, options.dtype), array(y, options.dtype if y.dtype.kind == "f" else None)

    def differentiated(self, options, what=None):
        """What a `_jax_…` function makes of fn, as a function of (logits, labels, …); compiled if asked for."""
        import jax

        what = what or _jax_value_and_grad
        fn = partial(self.fn, **converted(options, self.array)) if options.keywords else self.fn
        if not self.compiled:
            return partial(what, fn)
        if isinstance(fn, jax.tree_util.Partial):
            return partial(_jitted_once(what), fn)
        key = (what, *((name, *_identity(value)) for name, value in options.keywords.items()))
        if key not in self._programs:
            program = jax.jit(partial(what, fn), compiler_options=_compiler_options())
            self._programs[key] = program, options.keywords  # kept alive, so that no other object gets their ids
        return self._programs[key][0]

    def __call__(self, z, y, options):
        logits, labels = self.arguments(z, y, options)
        with quick():
            loss, own, autodiff, second, is_tuple = self.differentiated(options)(logits, labels)
        gradient = own if _is_gradient(own, logits) else autodiff
        precision = max(EPS[str(np.asarray(x).dtype)] for x in (loss, gradient))
        second = None if second is None or own is not None else float64(second)
        return Answer(float64(loss), float64(gradient), precision, is_tuple=bool(is_tuple), second=second)

    def gradients(self, z, y, options, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent. None where fn returns its own."""
        logits, labels = self.arguments(z, y, options)
        with quick():
            found, own = self.differentiated(options, _jax_pulled_back)(logits, labels, cotangents)
        return None if _is_gradient(own, logits) else [float64(g) for g in found]

    def with_other_compilation(self):
        """The same loss, eager where this one is compiled and compiled where this one is eager."""
        return Jax(self.fn, not self.compiled)


def _identity(value):
    """What makes a keyword argument another constant of a program."""
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else (id(value),)


def _cast(value, dtype):
    """A NumPy array, of a dtype that JAX names."""
    import jax.numpy as jnp

    value = np.asarray(value)
    return value if dtype is None else value.astype(jnp.dtype(dtype))


def _is_gradient(own, logits):
    """Whether what fn returned beside its loss is a gradient, and not the logits."""
    if own is None:
        return False
    own = np.asarray(own)
    return bool((own != np.asarray(logits).astype(own.dtype)).any())


QUICK = {
    "jax_traceback_filtering": "off",  # of a traceback that nobody sees (5 ms where fn raises, without it 1)
    "jax_disable_most_optimizations": True,  # of each operation that runs eagerly, for its shape here
}


@contextmanager
def quick():
    """JAX's configuration for calls whose programs run a few times, and whose tracebacks nobody sees."""
    import jax

    now = jax.config.values
    before = {name: now[name] for name in QUICK}
    for name, value in QUICK.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


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
        loss = first(result)
        return jnp.sum(loss), (loss, own, second, is_tuple)

    gradient, (loss, own, second, is_tuple) = jax.grad(total, has_aux=True)(logits)
    return loss, own, gradient, second, is_tuple


def _jax_pulled_back(fn, logits, labels, cotangents):
    """(the gradient of Σ cotangent·loss for each cotangent, from one forward pass; fn's own gradient or None)."""
    import jax
    import jax.numpy as jnp

    def loss_and_own(logits):
        result = fn(logits, labels)
        second = result[1] if isinstance(result, (tuple, list)) and len(result) > 1 else None
        return first(result), second if getattr(second, "shape", None) == logits.shape else None

    loss, backward, own = jax.vjp(loss_and_own, logits, has_aux=True)
    return [backward(jnp.reshape(c, loss.shape).astype(loss.dtype))[0] for c in cotangents], own


@cache
def _jitted_once(what):
    """For functions that are `jax.tree_util.Partial`s: their arguments are traced, so variants share one program."""
    import jax

    return jax.jit(what, compiler_options=_compiler_options())


@cache
def _compiler_options():
    """What makes XLA compile quickly, as far as this release knows it."""
    import jax

    try:
        jax.jit(lambda: 0, compiler_options=QUICKER_XLA)()
    except Exception:
        return QUICK_XLA
    return QUICKER_XLA
