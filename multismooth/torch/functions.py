"""The public functions of the PyTorch backend: those of every backend, and the same for tensors that are in parts."""

from functools import wraps

import torch

from multismooth.api.functions import Functions
from multismooth.api.public import Elsewhere
from multismooth.errors import complain
from multismooth.torch.options import OWN

PLAIN = (torch.Tensor, torch.nn.Parameter)
IN_PARTS = ("loss", "terms", "loss_and_grad", "linear_loss", "linear_terms", "linear_loss_and_grad")


def placed(tensor):
    """Whether this is a DTensor. Its class is not imported, because that takes a second."""
    return type(tensor) not in PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


class TorchFunctions(Functions):
    def elsewhere(self, method):
        """Tensors that are in parts go to the namesake of the method in `sharding`."""
        name, backend = method.__name__, self._backend
        if name not in IN_PARTS:
            return None

        @wraps(method)
        def call(*arguments, **options):
            first = arguments[0] if arguments else options.get("hidden", options.get("logits"))
            if options.get("group") is None and not placed(first):
                return method(*arguments, **_without_own(options))
            from multismooth.torch import sharding  # which imports torch.distributed

            return sharding.call(name, backend, *arguments, **options)

        return Elsewhere(call, PLAIN, OWN)

    @wraps(Functions.normalizer)
    def normalizer(self, targets, *arguments, **options):
        if not placed(targets):
            return super().normalizer(targets, *arguments, **options)
        from multismooth.torch import sharding

        return sharding.placed_normalizer(super().normalizer, targets, *arguments, **options)


def _without_own(options):
    """The options without the keywords of a group, of which none has a value."""
    for name in OWN:
        if options.get(name) is not None:
            expected, got = "None without group=", repr(options[name])
            raise complain(name, expected, got, "Pass the group over whose ranks the classes are split.")
    return {key: value for key, value in options.items() if key not in OWN}
