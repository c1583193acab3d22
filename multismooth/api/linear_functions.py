"""The public functions of a linear layer followed by its loss. `functions` inherits them."""

from __future__ import annotations

from typing import Any, Unpack

from multismooth.api.options import (
    Array,
    Arrays,
    CorrectionOptions,
    HeadOptions,
    HeadTermsOptions,
    Labels,
    Loss,
    Result,
    Rows,
    Scores,
    by_default,
)
from multismooth.problem import Terms


class HeadFunctions:
    """`linear_loss` and related functions, for `multismooth.api.functions.Functions`."""

    _backend: Any
    _arguments: Any
    _call: Any

    def linear_loss(
        self,
        hidden: Scores,
        classifier: Scores,
        targets: Labels,
        *,
        bias: Array | Rows | None = None,
        **options: Unpack[HeadOptions],
    ) -> Loss:
        """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory.

        Args:
            hidden: (N…, D) features; `axis` is their feature axis, and the class axis of the logits.
            classifier: (K, D), as in a linear layer. bias: (K,).
            chunk_rows: elements per chunk of logits. None chooses a workspace near 32 MiB, on a GPU near 1 GiB.
            accumulate: the dtype in which the classifier's gradient is summed over the chunks. "float32" is float64 for
                float64. "input" is the classifier's dtype: half precision saves a (K, D) buffer of float32, and rounds
                once per chunk. It has no effect with a single chunk.

        The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> hidden, classifier = np.eye(2, 3), np.ones((4, 3))
        >>> round(float(multismooth.linear_loss(hidden, classifier, np.array([0, 3]))), 6)
        1.386294
        """
        return self._backend.linear_loss(*self._head(hidden, classifier, targets, bias, **options))

    def linear_loss_and_grad(
        self,
        hidden: Scores,
        classifier: Scores,
        targets: Labels,
        *,
        bias: Array | Rows | None = None,
        **options: Unpack[HeadOptions],
    ) -> tuple[Loss, tuple[Result, Result, Result | None]]:
        """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum.

        >>> import numpy as np
        >>> import multismooth
        >>> loss, (d_hidden, d_classifier, d_bias) = multismooth.linear_loss_and_grad(
        ...     np.eye(2, 3), np.ones((4, 3)), np.array([0, 3]))
        >>> d_hidden.shape, d_classifier.shape, d_bias
        ((2, 3), (4, 3), None)
        """
        return self._backend.linear_loss_and_grad(*self._head(hidden, classifier, targets, bias, **options))

    def linear_terms(
        self,
        hidden: Scores,
        classifier: Scores,
        targets: Labels,
        *,
        bias: Array | Rows | None = None,
        **options: Unpack[HeadTermsOptions],
    ) -> Terms[Arrays]:
        """`terms(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory.

        Perplexity, token accuracy and a z-loss of a fused head come from it. Backward makes each chunk's logits again,
        so there is never more than one chunk of them. Arguments as in `linear_loss`, results as in `terms`.

        >>> import numpy as np
        >>> import multismooth
        >>> hidden, classifier, labels = np.eye(2, 3), np.arange(12.0).reshape(4, 3), np.array([3, 0])
        >>> found = multismooth.linear_terms(hidden, classifier, labels)
        >>> found.predicted.tolist(), float((found.predicted == labels).mean())  # token accuracy
        ([3, 3], 0.5)
        >>> round(float(np.exp(found.nll.sum() / found.weight.sum())), 3)  # perplexity
        94.733
        """
        return self._backend.linear_terms(*self._head(hidden, classifier, targets, bias, reduction="none", **options))

    def smoothing_correction(
        self,
        hidden: Scores,
        classifier: Scores,
        targets: Labels,
        *,
        bias: Array | Rows | None = None,
        **options: Unpack[CorrectionOptions],
    ) -> Loss:
        """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss.

        Add it to a fused linear cross-entropy that supports only hard labels (cut-cross-entropy, quack, PyTorch's
        `linear_cross_entropy` in chunks), with the same reduction and denominator. The sum is the smoothed loss, with
        its gradients, in O(N·D + K·D). A z-loss of that function stays as it is. To weight whole elements by the class
        weight of their label, pass `sample_weight=weight[targets]`; "per_term" weights, soft targets and class masks
        need `linear_loss`.

        Args:
            hidden, classifier, bias: (N…, D), (K, D) and (K,), as in `linear_loss`. targets: (N…) labels.
            prior: (K,) distribution of the smoothed mass, instead of 1/K.

        The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> head = np.eye(2, 3), np.arange(12.0).reshape(4, 3), np.array([0, 3])
        >>> hard = multismooth.linear_loss(*head, label_smoothing=0.0)
        >>> smoothed = hard + multismooth.smoothing_correction(*head, label_smoothing=0.1)
        >>> bool(np.isclose(smoothed, multismooth.linear_loss(*head, label_smoothing=0.1)))
        True
        """
        hidden, classifier, bias, _, call = self._head(hidden, classifier, targets, bias, **options)
        return self._backend.smoothing_correction(hidden, classifier, bias, call)

    @by_default
    def _head(self, hidden, classifier, targets, bias, *, axis, chunk_rows, accumulate, **options):
        """(hidden, classifier, bias, chunk_rows, Call). The Call's logits have a shape but no values."""
        *head, logits = self._arguments.head(hidden, classifier, bias, chunk_rows, accumulate, axis)
        call = self._call_of_shape(logits, targets, axis=axis, **options)
        return *head, call._replace(settings=call.settings._replace(accumulate=accumulate))
