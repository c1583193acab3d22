"""One class per framework. It converts NumPy arrays, calls a loss with them, differentiates it, and converts back."""

from functools import partial

import numpy as np

from multismooth.parity.calling.answers import Answer, converted, float64, loss_and_gradient, second_of
from multismooth.parity.calling.jax_losses import Jax
from multismooth.parity.calling.tapes import MLX, Paddle, TensorFlow, Tinygrad

FRAMEWORKS = ("torch", "jax", "tensorflow", "mlx", "tinygrad", "paddle", "numpy")


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
        return logits, self.array(y, options.dtype if y.dtype.kind == "f" else None), converted(options, self.array)

    def __call__(self, z, y, options):
        import torch

        logits, labels, keywords = self.arguments(z, y, options)
        before = logits.double().numpy().copy()
        logits.requires_grad_(self.differentiate)
        with torch.enable_grad():
            result = self.fn(logits, labels, **keywords)
        loss, gradient = loss_and_gradient(result, logits.detach())
        loss, second = torch.as_tensor(loss), second_of(result, gradient)
        if gradient is None and self.differentiate:
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
        floating = [x for x in (loss, gradient) if x is not None and x.is_floating_point()]
        return Answer(
            float64(loss.detach().double()),
            None if gradient is None else float64(gradient.detach().double()),
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
        loss, gradient = loss_and_gradient(result, logits.detach())
        if gradient is not None:
            return None
        cotangents = [self.array(np.reshape(c, tuple(loss.shape))).to(loss.dtype) for c in cotangents]
        # Of a sum, because with `grad_outputs` PyTorch would import SymPy
        found = [torch.autograd.grad((loss * c).sum(), logits, retain_graph=True)[0].clone() for c in cotangents]
        return [float64(gradient.detach().double()) for gradient in found]

    def with_other_compilation(self):
        """The same loss, compiled. None where there is no compiler."""
        import torch

        return Torch(torch.compile(self.fn))


class Numpy:
    def __init__(self, fn):
        self.fn = fn

    def array(self, value, dtype=None):
        return np.array(value, dtype=dtype)

    def __call__(self, z, y, options):
        logits, labels = self.array(z, options.dtype), self.array(y, options.dtype if y.dtype.kind == "f" else None)
        logits = np.stack([logits, -logits], -1)[..., 0] if options.strided else logits
        before, given = np.array(logits), np.array(labels)
        result = self.fn(logits, labels, **converted(options, self.array))
        loss, gradient = loss_and_gradient(result, logits)
        dtypes = [np.asarray(x).dtype for x in (loss, gradient) if x is not None]
        if any(dtype.kind != "f" for dtype in dtypes):
            raise TypeError(f"fn returned {type(loss).__name__} of dtype {dtypes[0]}, which is no loss")
        unchanged = np.array_equal(logits, before, equal_nan=True) and np.array_equal(labels, given)
        return Answer(
            float64(loss),
            None if gradient is None else float64(gradient),
            precision=max(float(np.finfo(dtype).eps) for dtype in dtypes),
            inputs_changed=not unchanged,
            is_tuple=isinstance(result, (tuple, list)),
            second=second_of(result, gradient),
        )

    def gradients(self, z, y, options, cotangents):
        """None: there is no automatic differentiation."""
        return None

    def with_other_compilation(self):
        """None: there is no compiler."""
        return None


class JaxValues(Numpy):
    """JAX arrays, no differentiation."""

    array = Jax.array


MODES = {
    "torch": Torch,
    "jax": Jax,
    "jax eagerly": partial(Jax, compiled=False),
    "tensorflow": TensorFlow,
    "mlx": MLX,
    "tinygrad": Tinygrad,
    "paddle": Paddle,
    "numpy": Numpy,
    "torch values": partial(Torch, differentiate=False),
    "jax values": JaxValues,
    "tensorflow values": partial(TensorFlow, differentiate=False),
    "mlx values": partial(MLX, differentiate=False),
    "tinygrad values": partial(Tinygrad, differentiate=False),
    "paddle values": partial(Paddle, differentiate=False),
}
