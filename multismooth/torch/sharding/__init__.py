"""One loss over several processes: classes split over a group, elements split over another, or both.

A process reduces its classes to a few numbers per element, `spec.Statistics`. The processes exchange these numbers, and
merge them alike. Nothing of the size of the logits moves, and backward needs no exchange. `docs/scale.md` has the law
and what is exchanged.
"""

from multismooth.torch.sharding import calls, head_calls
from multismooth.torch.sharding.calls import placed_normalizer
from multismooth.torch.sharding.exchange import summed

__all__ = ["call", "placed_normalizer", "summed"]

LOCAL = dict.fromkeys(("loss", "terms", "loss_and_grad"), calls.local)
PLACED = dict.fromkeys(LOCAL, calls.placed)
HEADS = ("linear_loss", "linear_terms", "linear_loss_and_grad")
LOCAL |= dict.fromkeys(HEADS, head_calls.local_head)
PLACED |= dict.fromkeys(HEADS, head_calls.placed_head)


def call(name, backend, *arguments, group=None, **options):
    """The public function of this name, for tensors in parts: local ones of a group's classes, or DTensors."""
    if name.endswith("terms"):
        options["reduction"] = "none"
    if group is None:
        return PLACED[name](name, backend, *arguments, **options)
    return LOCAL[name](name, backend, *arguments, group=group, **options)
