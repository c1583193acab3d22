"""Calls losses of TensorFlow, MLX, tinygrad and Paddle, eagerly, with each one's own differentiation."""

import re

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.answers import EPS, Answer, converted, first, second_of

SHORT_NAMES = {"double": "float64", "float": "float32", "half": "float16", "bf16": "bfloat16"}


class Tape:
    """What the four share. Each brings `array`, `numpy` and `recorded`."""

    def __init__(self, fn, differentiate=True):
        self.fn, self.differentiate = fn, differentiate

    def array(self, value, dtype=None):
        """A NumPy array as one of the framework."""
        raise NotImplementedError

    def numpy(self, array):
        """The framework's array as a float64 NumPy array."""
        raise NotImplementedError

    def recorded(self, fn, logits):
        """(fn(logits), backward): backward(loss, cotangent) is the gradient of Σ cotangent·loss."""
        raise NotImplementedError

    def __call__(self, z, y, options):
        logits, labels, result, backward = self._called(z, y, options)
        loss = first(result)
        gradient = own = self._own_gradient(result, logits)
        if own is None and self.differentiate:
            gradient = self._gradient(backward, loss, np.ones(_shape(loss)), logits)
        values = self._float64(logits), self._float64(labels)
        return Answer(
            self._float64(loss),
            None if gradient is None else self._float64(gradient),
            precision=max(EPS[_name(x)] for x in (loss, gradient) if x is not None),
            inputs_changed=not (
                np.array_equal(values[0], self._float64(self.array(z, options.dtype)), equal_nan=True)
                and np.array_equal(values[1], np.asarray(y, np.float64))
            ),
            is_tuple=isinstance(result, (tuple, list)),
            second=None if own is not None else second_of(self._as_numbers(result), None),
        )

    def gradients(self, z, y, options, cotangents):
        """The gradient of Σ cotangent·loss for each cotangent, from one forward pass. None where fn returns its own."""
        logits, _, result, backward = self._called(z, y, options)
        if not self.differentiate or self._own_gradient(result, logits) is not None:
            return None
        loss = first(result)
        return [self._float64(self._gradient(backward, loss, cotangent, logits)) for cotangent in cotangents]

    def with_other_compilation(self):
        """None: fn is called as it is."""
        return None

    def _called(self, z, y, options):
        """(logits, labels, what fn returned, backward)."""
        logits = self.array(z, options.dtype)
        labels = self.array(y, options.dtype if y.dtype.kind == "f" else None)
        keywords = converted(options, self.array)
        if self.differentiate:
            return logits, labels, *self.recorded(lambda z: self.fn(z, labels, **keywords), logits)
        return logits, labels, self.fn(logits, labels, **keywords), None

    def _gradient(self, backward, loss, cotangent, logits):
        if not isinstance(loss, type(logits)):
            raise TypeError(f"fn returned {type(loss).__name__}, which cannot be differentiated")
        gradient = backward(loss, self.array(np.reshape(cotangent, _shape(loss)), _name(loss)))
        if gradient is None:
            raise TypeError("the loss does not depend on the logits")
        return gradient

    def _own_gradient(self, result, logits):
        """The gradient that fn returns beside its loss, or None."""
        second = result[1] if isinstance(result, (tuple, list)) and len(result) > 1 else None
        if second is logits or second is None or _shape(second) != _shape(logits):
            return None
        return second if (self._float64(second) != self._float64(logits)).any() else None

    def _as_numbers(self, result):
        """What fn returned, its second value as NumPy's."""
        if isinstance(result, (tuple, list)) and len(result) > 1 and hasattr(result[1], "shape"):
            return result[0], self._float64(result[1])
        return result

    def _float64(self, value):
        is_plain = isinstance(value, (np.ndarray, np.generic, float, int))
        return np.asarray(value if is_plain else self.numpy(value), np.float64)


def _shape(value):
    return tuple(getattr(value, "shape", ()))


def _name(value):
    """The name of a floating dtype, as NumPy has it. KeyError for another one: that is no loss."""
    dtype = str(getattr(value, "dtype", type(value).__name__ + "64"))
    found = re.search(r"b?float\d+|double|half|bf16|float", dtype)
    return SHORT_NAMES.get(found[0], found[0]) if found else dtype


class TensorFlow(Tape):
    def array(self, value, dtype=None):
        import tensorflow as tf

        return tf.constant(value) if dtype is None else tf.cast(tf.constant(value), dtype)

    def numpy(self, array):
        import tensorflow as tf

        return tf.cast(array, tf.float64).numpy()

    def recorded(self, fn, logits):
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            result = fn(logits)

        def backward(loss, cotangent):
            gradient = tape.gradient(loss, logits, cotangent)
            return None if gradient is None else tf.convert_to_tensor(gradient)

        return result, backward

    def with_other_compilation(self):
        """The same loss under `tf.function`."""
        import tensorflow as tf

        return TensorFlow(tf.function(self.fn))


class MLX(Tape):
    """MLX looks at no label: one beyond the classes reads and writes beyond the arrays, and may end the process."""

    def _called(self, z, y, options):
        k = z.size // max(y.size, 1)
        if y.ndim < z.ndim and ((y < -k) | (y >= k)).any():
            remedy = "Let a class stand for it: lambda z, y: fn(z, mx.where(y == 0, -100, y)), and ignore_index=0."
            raise complain("labels", f"classes in [−{k}, {k}): MLX checks none", f"{y.min()} to {y.max()}", remedy)
        return super()._called(z, y, options)

    def array(self, value, dtype=None):
        import mlx.core as mx

        value = np.asarray(value)
        dtype = dtype or value.dtype.name
        return mx.array(value, dtype=getattr(mx, dtype if dtype != "bool" else "bool_"))

    def numpy(self, array):
        import mlx.core as mx

        return np.array(array if array.dtype == mx.float64 else array.astype(mx.float32))

    def recorded(self, fn, logits):
        import mlx.core as mx

        def backward(loss, cotangent):
            return mx.vjp(lambda z: first(fn(z)), [logits], [cotangent])[1][0]

        return fn(logits), backward

    def with_other_compilation(self):
        """The same loss under `mx.compile`."""
        import mlx.core as mx

        return MLX(mx.compile(self.fn))


class Tinygrad(Tape):
    def array(self, value, dtype=None):
        from tinygrad import Tensor, dtypes

        value = np.ascontiguousarray(value).reshape(np.shape(value))
        return Tensor(value, dtype=None if dtype is None else getattr(dtypes, dtype))

    def numpy(self, array):
        from tinygrad import dtypes

        return array.cast(dtypes.float64).numpy()

    def recorded(self, fn, logits):
        return fn(logits), lambda loss, cotangent: (loss * cotangent).sum().gradient(logits)[0]


class Paddle(Tape):
    def array(self, value, dtype=None):
        import paddle

        return paddle.to_tensor(value, dtype=dtype)

    def numpy(self, array):
        return array.detach().astype("float64").numpy()

    def recorded(self, fn, logits):
        import paddle

        logits.stop_gradient = not self.differentiate

        def backward(loss, cotangent):
            return paddle.grad([loss], [logits], grad_outputs=[cotangent], retain_graph=True, allow_unused=True)[0]

        return fn(logits), backward
