"""LinearLoss: a classifier layer that ends in its loss, so that no logits are kept."""

import torch

from multismooth.torch.backend import functions


class LinearLoss(torch.nn.Linear):
    """`linear_loss(hidden, self.weight, targets, bias=self.bias, …)` as a layer with `nn.Linear`'s parameters.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`; its state dict loads here and back.
        options: defaults for the keyword arguments of `linear_loss` (label_smoothing, convention, ignore_index, …).

    `forward(hidden, targets, **options)` returns the loss; options given there win (`weight` is the class weights).
    `logits(hidden)` is the linear layer alone, for prediction.

    >>> import torch
    >>> head = LinearLoss(8, 5, label_smoothing=0.1)
    >>> head(torch.zeros(2, 8), torch.tensor([1, 4])).ndim, head.logits(torch.zeros(2, 8)).shape
    (0, torch.Size([2, 5]))
    """

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, **options):
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.options = options

    def forward(self, hidden, targets, **options):  # type: ignore[override]
        return functions.linear_loss(hidden, self.weight, targets, bias=self.bias, **self.options | options)

    def logits(self, hidden):
        """The scores (N…, out_features) that the loss is of."""
        return super().forward(hidden)

    def extra_repr(self):
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return super().extra_repr() + options
