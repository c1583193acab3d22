"""LinearLoss for Flax Linen: a classifier layer that ends in its loss, so that no logits are kept."""

from collections.abc import Mapping
from inspect import Parameter, signature
from types import new_class
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict

from multismooth.flax.options import OPTIONS, is_array, linear_loss_by, product, refuse_unknown, refused


class Constant:
    """An array among a module's options: a copy, hashed and compared by its values, as modules are."""

    def __init__(self, value):
        self.value = value if isinstance(value, jax.core.Tracer) else np.array(value)

    def __hash__(self):
        value = np.asarray(self.value)
        return hash((value.shape, str(value.dtype), value.tobytes()))

    def __eq__(self, other):
        if not isinstance(other, Constant):
            return NotImplemented
        one, two = np.asarray(self.value), np.asarray(other.value)
        return one.shape == two.shape and one.dtype == two.dtype and one.tobytes() == two.tobytes()

    def __repr__(self):
        return repr(self.value)


def _fields(namespace):
    namespace |= {"__annotations__": dict.fromkeys(OPTIONS, Any), **OPTIONS}


Options: Any = new_class("Options", (nn.Module,), {"kw_only": True}, _fields)  # a field for every option


class LinearLoss(nn.Dense, Options):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with the parameters of `nn.Dense`.

    Args:
        features (K) and every argument of `nn.Dense`, with its meaning: dtype and promote_dtype are what features and
            parameters are cast by, precision and dot_general make the logits. A `dot_general` of your own is
            differentiated by JAX, a chunk of logits at a time.
        Every other keyword is a default for one of `linear_loss` (label_smoothing, convention, weight, …) and becomes
            a field. Arrays are constants of the module: copied, part of its hash, and no parameters.
        options: the same as a dict.

    `apply(params, hidden, targets, **options)` returns the loss; options given there win. What changes from step to
    step is given there. The params of an `nn.Dense` load into it and back.

    Raises TypeError for a keyword that is none, saying which is meant, and ValueError for products with variables of
    their own (`dot_general_cls`).

    >>> import jax, jax.numpy as jnp
    >>> head = LinearLoss(5, label_smoothing=0.1)
    >>> params = head.init(jax.random.key(0), jnp.zeros((2, 8)), jnp.array([1, 4]))
    >>> head.apply(params, jnp.zeros((2, 8)), jnp.array([1, 4])).shape, params["params"]["kernel"].shape
    ((), (8, 5))
    """

    options: Mapping[str, Any] = FrozenDict()

    def __new__(cls, *arguments, **named):
        own = signature(cls.__init__).parameters
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in own.values()):
            refuse_unknown(cls.__name__, named, list(own)[1:])
        return super().__new__(cls)

    def __post_init__(self):
        refuse_unknown(type(self).__name__, self.options)
        if self.dot_general_cls is not None:
            raise refused("dot_general_cls", self.dot_general_cls)
        self._product()
        for name, default in OPTIONS.items():
            value = getattr(self, name)
            value = self.options.get(name, default) if value is default else value
            object.__setattr__(self, name, Constant(value) if is_array(value) else value)
        object.__setattr__(self, "options", FrozenDict())
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden, targets, **options):
        given = {name: getattr(self, name) for name in OPTIONS}
        options = {k: v.value if isinstance(v, Constant) else v for k, v in given.items()} | options
        axis = -1 if options["axis"] is None else options["axis"]
        kernel = self.param("kernel", self.kernel_init, (hidden.shape[axis], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        hidden, kernel, bias = self.promote_dtype(hidden, kernel, bias, dtype=self.dtype)
        return linear_loss_by(self._product())(hidden, kernel.T, targets, bias=bias, **options)

    def logits(self, hidden):
        """The scores (N…, features) that the loss is of; features and classes are on the option `axis`."""
        if self.axis is None:
            return super().__call__(hidden)
        return jnp.moveaxis(super().__call__(jnp.moveaxis(hidden, self.axis, -1)), -1, self.axis)

    @nn.nowrap  # called while the module is made, of which `tabulate` would keep a record
    def _product(self):
        return product(self.precision, None, self.dot_general, nn.Module)
