"""The public functions of a linear head that ends in its loss: a part of `functions`."""

from typing import Any


class HeadFunctions:
    """`linear_loss` and what belongs to it, for `multismooth.api.functions.Functions`."""

    _backend: Any
    _arguments: Any
    _call: Any

    def linear_loss(
        self,
        hidden,
        classifier,
        targets,
        *,
        bias=None,
        label_smoothing: Any = 0.1,
        convention: Any = "torch",
        weight=None,
        prior=None,
        class_mask=None,
        sample_weight=None,
        ignore_index: int | None = -100,
        z_loss: Any = 0.0,
        reduction: str = "mean",
        normalizer=None,
        axis: int | None = None,
        validate: bool | None = None,
        chunk_rows: int | None = None,
        accumulate: str = "float32",
    ):
        """`loss(hidden @ classifier.T + bias, targets, …)` without ever holding the (N, K) logits.

        Args:
            hidden: (N…, D) features; `axis` names their feature axis (and so the class axis of the logits).
            classifier: (K, D), as in a linear layer. bias: (K,).
            chunk_rows: elements per chunk of logits; None keeps the workspace near 32 MiB, on a GPU near 1 GiB.
            accumulate: what the classifier's gradient is summed in over the chunks (of one chunk it is no sum):
                "float32" (float64 for float64), or "input", the classifier's dtype: half precision saves a (K, D)
                buffer of float32, and rounds once per chunk.

        The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> hidden, classifier = np.eye(2, 3), np.ones((4, 3))
        >>> round(float(multismooth.linear_loss(hidden, classifier, np.array([0, 3]))), 6)
        1.386294
        """
        return self._backend.linear_loss(*self._head(
            hidden, classifier, bias, chunk_rows, accumulate, targets, label_smoothing, convention, weight, prior,
            class_mask, sample_weight, ignore_index, z_loss, reduction, normalizer, axis, validate,
        ))  # fmt: skip

    def linear_loss_and_grad(
        self,
        hidden,
        classifier,
        targets,
        *,
        bias=None,
        label_smoothing: Any = 0.1,
        convention: Any = "torch",
        weight=None,
        prior=None,
        class_mask=None,
        sample_weight=None,
        ignore_index: int | None = -100,
        z_loss: Any = 0.0,
        reduction: str = "mean",
        normalizer=None,
        axis: int | None = None,
        validate: bool | None = None,
        chunk_rows: int | None = None,
        accumulate: str = "float32",
    ):
        """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`; of its sum for "none".

        >>> import numpy as np
        >>> import multismooth
        >>> loss, (d_hidden, d_classifier, d_bias) = multismooth.linear_loss_and_grad(
        ...     np.eye(2, 3), np.ones((4, 3)), np.array([0, 3]))
        >>> d_hidden.shape, d_classifier.shape, d_bias
        ((2, 3), (4, 3), None)
        """
        return self._backend.linear_loss_and_grad(*self._head(
            hidden, classifier, bias, chunk_rows, accumulate, targets, label_smoothing, convention, weight, prior,
            class_mask, sample_weight, ignore_index, z_loss, reduction, normalizer, axis, validate,
        ))  # fmt: skip

    def smoothing_correction(
        self,
        hidden,
        classifier,
        targets,
        *,
        bias=None,
        label_smoothing: Any = 0.1,
        convention: Any = "torch",
        prior=None,
        sample_weight=None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        normalizer=None,
        axis: int | None = None,
        validate: bool | None = None,
    ):
        """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss.

        Add it to any fused linear cross-entropy that knows hard labels alone (cut-cross-entropy, quack, PyTorch's
        `linear_cross_entropy` in chunks), with that one's reduction and divisor, to have the smoothed loss and its
        gradients in O(N·D + K·D). The engine's own z-loss stays as it is. The label's class weight on the whole
        element is `sample_weight=weight[targets]`; "per_term" weights, soft targets and class masks need `linear_loss`.

        Args:
            hidden, classifier, bias: (N…, D), (K, D) and (K,), as in `linear_loss`. targets: (N…) labels.
            prior: (K,) where the smoothed mass goes instead of 1/K.

        The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> head = np.eye(2, 3), np.arange(12.0).reshape(4, 3), np.array([0, 3])
        >>> hard = multismooth.linear_loss(*head, label_smoothing=0.0)
        >>> smoothed = hard + multismooth.smoothing_correction(*head, label_smoothing=0.1)
        >>> bool(np.isclose(smoothed, multismooth.linear_loss(*head, label_smoothing=0.1)))
        True
        """
        hidden, classifier, bias, _, call = self._head(
            hidden, classifier, bias, None, "float32", targets, label_smoothing, convention, None, prior,
            None, sample_weight, ignore_index, 0.0, reduction, normalizer, axis, validate,
        )  # fmt: skip
        return self._backend.smoothing_correction(hidden, classifier, bias, call)

    def _head(self, hidden, classifier, bias, chunk_rows, accumulate, targets, *rest):
        """(hidden, classifier, bias, chunk_rows, Call); the Call's logits are a shape only."""
        head = self._arguments.head(hidden, classifier, bias, chunk_rows, accumulate, rest[-2])
        *head, logits = head
        call = self._call(logits, targets, *rest, scores=False)
        return *head, call._replace(settings=call.settings._replace(accumulate=accumulate))
