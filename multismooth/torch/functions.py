"""The public functions of the PyTorch backend: those of every backend, and the same for tensors that are in parts."""

from functools import wraps

import torch

from multismooth.api.functions import Functions
from multismooth.errors import complain
from multismooth.torch.options import OWN

PLAIN = (torch.Tensor, torch.nn.Parameter)


def placed(tensor):
    """Whether this is a DTensor. Its class is not imported, because that takes a second."""
    return type(tensor) not in PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def also_in_parts(method):
    """The method of `Functions`, which calls its namesake in `sharding` for tensors that are in parts."""
    name = method.__name__

    @wraps(method)
    def call(self, *arguments, **options):
        first = arguments[0] if arguments else options.get("hidden", options.get("logits"))
        if options.get("group") is None and not placed(first):
            given = [own for own in OWN if own in options]
            if given:
                _refuse_alone(given, options)
                options = {key: value for key, value in options.items() if key not in OWN}
            return method(self, *arguments, **options)
        from multismooth.torch import sharding  # which imports torch.distributed

        return sharding.call(name, self._backend, *arguments, **options)

    return call


def _refuse_alone(given, options):
    for name in given:
        if options[name] is not None:
            expected, got = "None without group=", repr(options[name])
            raise complain(name, expected, got, "Pass the group over whose ranks the classes are split.")


class TorchFunctions(Functions):
    loss = also_in_parts(Functions.loss)
    terms = also_in_parts(Functions.terms)
    loss_and_grad = also_in_parts(Functions.loss_and_grad)
    linear_loss = also_in_parts(Functions.linear_loss)
    linear_terms = also_in_parts(Functions.linear_terms)
    linear_loss_and_grad = also_in_parts(Functions.linear_loss_and_grad)

    @wraps(Functions.normalizer)
    def normalizer(self, targets, *arguments, **options):
        if not placed(targets):
            return super().normalizer(targets, *arguments, **options)
        from multismooth.torch import sharding

        return sharding.placed_normalizer(super().normalizer, targets, *arguments, **options)
