"""The options of a layer that ends in `linear_loss`: their names and defaults, arrays among them, misspelt ones."""

from functools import lru_cache
from inspect import Parameter, signature

import jax
import numpy as np

from multismooth.api.functions import Functions
from multismooth.api.public import public, unexpected
from multismooth.errors import complain
from multismooth.jax import linear_loss, linear_terms
from multismooth.jax.backend import JaxBackend
from multismooth.jax.linear import Product


def options_of(function):
    """{name: default} of the keyword arguments of a function, without the parameters of a layer."""
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.name != "bias"}


OPTIONS = options_of(linear_loss)
NOT_FOR_TERMS = tuple(name for name in OPTIONS if name not in options_of(linear_terms))


def refuse_unknown(layer, names, arguments=(), options=OPTIONS):
    """TypeError for a name that is neither an option nor among the layer's own arguments."""
    known = dict.fromkeys([*arguments, *options])
    for name in names:
        if name not in known:
            raise unexpected(layer, name, known)


def is_array(value):
    """Whether an option is an array, or a list that becomes one. NumPy's scalars are numbers, and axes have names."""
    if isinstance(value, (list, tuple)):
        return not all(isinstance(entry, str) for entry in value)
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def product(precision, preferred_element_type, dot_general, stateful):
    """The Product that a layer's arguments describe. `stateful`: the classes whose instances have variables."""
    result = Product(precision, preferred_element_type, None if dot_general is jax.lax.dot_general else dot_general)
    try:
        hash(result)
    except TypeError:
        raise refused("dot_general", dot_general) from None
    if isinstance(dot_general, stateful):
        raise refused("dot_general", dot_general)
    return result


def refused(argument, value):
    """The error for a product that has state or cannot be hashed."""
    remedy = "Make the logits with the framework's own layer, and pass them to multismooth.jax.loss."
    got = getattr(value, "__name__", type(value).__name__)
    return complain(argument, "a hashable function of arrays, without variables of its own", got, remedy)


@lru_cache(maxsize=128)
def by_product(function, product):
    """`linear_loss` or `linear_terms` that multiplies features and classifier by this Product."""
    if product == Product():
        return function
    return public(getattr(Functions(JaxBackend(product)), function.__name__), __name__)


def evaluate(return_terms, product, hidden, kernel, targets, bias, options):
    """What a layer returns: the loss, or the Terms."""
    function = linear_loss
    if return_terms:
        function, given = linear_terms, options.items()
        options = {name: value for name, value in given if name not in NOT_FOR_TERMS or value is not OPTIONS[name]}
    return by_product(function, product)(hidden, kernel.T, targets, bias=bias, **options)
