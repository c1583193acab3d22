"""One loss over several processes: classes split over a group, elements split over another, or both.

A process reduces its classes to a few numbers per element, `spec.Statistics`. The processes exchange these numbers, and
merge them alike. Nothing of the size of the logits moves, and backward needs no exchange. `docs/scale.md` has the law
and what is exchanged.
"""

from multismooth.torch.sharding import calls, head_calls
from multismooth.torch.sharding.calls import placed_normalizer
from multismooth.torch.sharding.exchange import summed

__all__ = ["call", "placed_normalizer", "summed"]

LOGITS = ("loss", "terms", "loss_and_grad")


def call(name, backend, *arguments, group=None, **options):
    """The public function of this name, for tensors in parts: local ones of a group's classes, or DTensors."""
    if name.endswith("terms"):
        options["reduction"] = "none"
    if group is None:
        function = calls.placed if name in LOGITS else head_calls.placed_head
        return function(name, backend, *arguments, **options)
    function = calls.local if name in LOGITS else head_calls.local_head
    return function(name, backend, *arguments, group=group, **options)
