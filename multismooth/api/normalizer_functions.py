"""The public function `normalizer`, which `functions` inherits."""

from __future__ import annotations

from typing import Any

from multismooth.api.options import Array, Labels, Number, Result, Rows
from multismooth.convention import Convention


class NormalizerFunctions:
    """`normalizer`, for `multismooth.api.functions.Functions`."""

    _backend: Any
    _arguments: Any
    _call_of_shape: Any

    def normalizer(
        self,
        targets: Labels,
        num_classes: int,
        *,
        label_smoothing: Number | Rows = 0.1,
        convention: str | Convention = "torch",
        weight: Array | Rows | None = None,
        sample_weight: Array | Rows | None = None,
        ignore_index: int | None = -100,
        axis: int = -1,
        group: Any = None,
        axis_name: str | tuple[str, ...] | None = None,
    ) -> Result:
        """What the mean of `loss` divides by: under "torch" Σ w_y of the counted labels, their number without weights.

        Pass it as `normalizer=` where one batch is computed in parts: gradient accumulation, data parallelism. The
        losses of the parts then add up to the loss of the batch. It reads targets and weights, no logits.

        Args:
            targets: (N…) labels, or (N…, K) soft targets with their classes on `axis`. They may be those of a whole
                batch, of which the losses see parts.
            num_classes: K.
            label_smoothing, convention, weight, sample_weight, ignore_index: as in `loss`.
            group: a torch.distributed ProcessGroup. The result is summed over its ranks: the data group.
            axis_name: mesh axes of `jax.shard_map` or `pmap`, a name or a tuple. The result is summed over them.

        Returns:
            A 0-d array: float64 in PyTorch and NumPy, the default float in JAX. A z-loss with a denominator of its own
            (`Convention.z_loss_denominator`) is not part of it.

        Raises:
            ValueError: the convention divides its smoothing term by another number, or by one that only the caller has.

        >>> import numpy as np
        >>> import multismooth
        >>> float(multismooth.normalizer(np.array([0, 2, -100]), 3))
        2.0
        """
        backend = self._backend
        template, targets = self._arguments.template(targets, num_classes, axis, backend.count_dtype)
        call = self._call_of_shape(
            template, targets, label_smoothing=label_smoothing, convention=convention, weight=weight,
            sample_weight=sample_weight, ignore_index=ignore_index, reduction="none", axis=axis,
        )  # fmt: skip
        return backend.normalizer(call, backend.sum_over(group, axis_name))
