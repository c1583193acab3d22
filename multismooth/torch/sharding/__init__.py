"""One loss over several processes: classes split over a group, elements split over another, or both.

A process reduces its classes to a few numbers per element, `spec.Statistics`. The processes exchange these numbers, and
merge them alike. Nothing of the size of the logits moves, and backward needs no exchange. `docs/scale.md` has the law
and what is exchanged.
"""

from multismooth.torch.sharding.exchange import summed

__all__ = ["summed"]
