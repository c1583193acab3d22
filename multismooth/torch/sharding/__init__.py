"""One loss over several processes: classes split over a group, elements split over another, or both."""

from multismooth.torch.sharding.exchange import summed

__all__ = ["summed"]
