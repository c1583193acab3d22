"""LinearLoss for Flax Linen: a classifier layer that returns its loss, so that the logits are never kept."""

from inspect import Parameter, signature
from types import new_class
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from multismooth.api.options import Array
from multismooth.flax.options import OPTIONS, evaluate, is_array, product, refuse_unknown, refused
from multismooth.jax.options import HeadOptions

__all__ = ["LinearLoss"]


class Constant:
    """An array among a module's options. It is a copy, hashed and compared by its values, because modules are."""

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


Options: Any = new_class("Options", (nn.Module,), {"kw_only": True}, _fields)  # has a field for every option


class LinearLossOptions(HeadOptions, total=False):
    """Of `LinearLoss`, with those of `nn.Dense`."""

    use_bias: bool
    dtype: Any
    param_dtype: Any
    precision: Any
    kernel_init: Any
    bias_init: Any
    promote_dtype: Any
    dot_general: Any
    name: str | None
    parent: Any
    return_terms: bool


class LinearLoss(nn.Dense, Options):
    """`linear_loss(hidden, kernel.T, targets, bias=bias, …)` as a layer with the parameters of `nn.Dense`.

    Args:
        features (K) and every argument of `nn.Dense`, with the same meaning: dtype and promote_dtype cast features and
            parameters; precision and dot_general make the logits. JAX differentiates your own `dot_general`, one chunk
            of logits at a time.
        Every other keyword is a default for an argument of `linear_loss` (label_smoothing, convention, weight, …) and
            becomes a field. Arrays are constants of the module: they are copied, part of its hash, and not parameters.
        return_terms: the result is that of `linear_terms`, which reduces nothing.

    `apply(params, hidden, targets, **options)` returns the loss, or the Terms. Its options replace the module's:
    pass there what changes from step to step. The params of an `nn.Dense` can be loaded, and the other way round.

    Raises TypeError for an unknown keyword, with the one that was probably meant, and ValueError for products that have
    variables (`dot_general_cls`).

    >>> import jax, jax.numpy as jnp
    >>> head = LinearLoss(5, label_smoothing=0.1)
    >>> params = head.init(jax.random.key(0), jnp.zeros((2, 8)), jnp.array([1, 4]))
    >>> head.apply(params, jnp.zeros((2, 8)), jnp.array([1, 4])).shape, params["params"]["kernel"].shape
    ((), (8, 5))
    """

    return_terms: bool = False

    if TYPE_CHECKING:

        def __init__(self, features: int, **arguments: Unpack[LinearLossOptions]) -> None: ...

    def __new__(cls, *arguments, **named):
        own = signature(cls.__init__).parameters
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in own.values()):
            refuse_unknown(cls.__name__, named, list(own)[1:])
        return super().__new__(cls)

    def __post_init__(self):
        if self.dot_general_cls is not None:
            raise refused("dot_general_cls", self.dot_general_cls)
        self._product()  # refuses a `dot_general` that has variables
        for name in OPTIONS:
            value = getattr(self, name)
            object.__setattr__(self, name, Constant(value) if is_array(value) else value)
        super().__post_init__()

    @nn.compact
    def __call__(  # type: ignore[override]
        self, hidden: jax.Array, targets: Array, **options: Unpack[HeadOptions]
    ) -> Any:
        defaults: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
        every: dict[str, Any] = {k: v.value if isinstance(v, Constant) else v for k, v in defaults.items()} | options
        axis = -1 if every["axis"] is None else every["axis"]
        kernel = self.param("kernel", self.kernel_init, (hidden.shape[axis], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        promoted: Any = self.promote_dtype(hidden, kernel, bias, dtype=self.dtype)
        hidden, kernel, bias = promoted
        return evaluate(self.return_terms, self._product(), hidden, kernel, targets, bias, every)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The logits (N…, features) that the loss is computed from. The option `axis` is the class axis."""
        if self.axis is None:
            return super().__call__(hidden)
        return jnp.moveaxis(super().__call__(jnp.moveaxis(hidden, self.axis, -1)), -1, self.axis)

    @nn.nowrap  # else `tabulate` would record the call in `__post_init__`
    def _product(self):
        return product(self.precision, None, self.dot_general, nn.Module)


def __dir__():
    return __all__
