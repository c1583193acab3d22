"""The public functions: one signature and one documentation for all backends. `arguments` checks what is passed."""

from __future__ import annotations

from typing import Any, Literal, Unpack

from multismooth.api.alternative_functions import AlternativeFunctions
from multismooth.api.linear_functions import HeadFunctions
from multismooth.api.normalizer_functions import NormalizerFunctions
from multismooth.api.options import (
    Array,
    Arrays,
    Labels,
    Loss,
    LossOptions,
    Number,
    Reduction,
    Result,
    Rows,
    Scores,
    TargetOptions,
    TermsOptions,
)
from multismooth.api.prior_functions import PriorFunctions
from multismooth.problem import Terms


class Functions(HeadFunctions, AlternativeFunctions, NormalizerFunctions, PriorFunctions):
    """The functions of one backend. Its methods become the public functions, such as `multismooth.torch.loss`."""

    def __init__(self, backend):
        # Imported here because they need NumPy, while `import multismooth` needs only the signatures.
        from multismooth.api.arguments import Arguments
        from multismooth.api.call_cache import CallCache
        from multismooth.api.parameters import Parameters

        self._backend, self._arguments, self._parameters = backend, Arguments(backend), Parameters(backend)
        self._call = CallCache(self._arguments)
        self._loss = self._call.answering(lambda call: backend.loss(call), backend.loss_again)
        self._call_of_shape = CallCache(self._arguments, scores=False)

    def elsewhere(self, method):
        """The `public.Elsewhere` of calls that this method of ours does not compute. None: it computes all."""
        return None

    def loss(self, logits: Scores, targets: Labels, **options: Unpack[LossOptions]) -> Loss:
        """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats.

        Args:
            logits: (N…, K) unnormalised scores, floating. Half precision is computed in float32.
            targets: (N…) labels of any integer dtype, or (N…, K) floating distributions or boolean one-hot rows.
            label_smoothing: ε in [0, 1], a number or an array that broadcasts to (N…).
            convention: a name in `multismooth.conventions` or a `Convention`. It says how ε is spread and what "mean"
                divides by.
            weight: (K,) class weights ≥ 0.
            prior: (K,) distribution of the smoothed mass, instead of 1/K, or (K, K) with one row per true class. Rows
                sum to 1.
            class_mask: boolean, (K,) or broadcasts to the logits. False: the class does not exist here.
            sample_weight: ≥ 0, broadcasts to (N…). It multiplies the element's loss and its share of the denominator.
            ignore_index: elements with this label contribute exactly 0. None ignores no label.
            z_loss: adds z_loss·logsumexp(logits)² per counted element. Its mean divides by what the loss's mean divides
                by, unless `Convention.z_loss_denominator` names another denominator.
            logit_softcap: c > 0, a number or a 0-d array: all of this is of c·tanh(logits/c), without a copy of the
                logits. The gradient is that of the given logits. A common offset of the logits changes the result.
            reduction: "mean", "sum" or "none".
            normalizer: divide the sum by this instead of the convention's denominator. It needs reduction "mean".
            axis: the class axis. None is the last axis, if the shapes are not ambiguous.
            validate: None checks values where this needs no device synchronisation, True always, False never.
            axis_name: in JAX, inside `jax.shard_map`, the mesh axes that split the class axis: a name or a tuple.
                Labels and (K,) arguments are those of all classes.

        Returns:
            A scalar, or (N…) losses for "none" (0 where ignored). float64 for float64 logits, else float32.

        Raises:
            TargetError: labels that name no class, targets that are not distributions, regression targets.
            SmoothingError: ε is not a number in [0, 1]. ValueError: wrong shapes, names or combinations.

        >>> import numpy as np
        >>> import multismooth
        >>> logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
        >>> round(float(multismooth.loss(logits, np.array([0, 2]), label_smoothing=0.1)), 6)
        0.363912

        Source: Szegedy et al. 2016, Rethinking the Inception Architecture, §7 (arXiv:1512.00567).
        """
        return self._loss(logits, targets, **options)

    def terms(self, logits: Scores, targets: Labels, **options: Unpack[TermsOptions]) -> Terms[Arrays]:
        """(loss, nll, weight, lse, predicted) per element: mean loss = Σ loss / Σ weight; nll is the loss at ε = 0.

        Gradient accumulation, data parallelism and logging need these: sums can be added over batches, means cannot.
        Arguments as in `loss`. `lse` is log Σ_k exp z_k over the classes that exist, after the soft cap; `predicted` is
        the class with the largest logit among them, the first of equals. `loss`, `nll` and `lse` are differentiable. An
        element that is ignored, or has the sample weight 0, gives 0 in these and −1, which names no class, in
        `predicted`.

        >>> import numpy as np
        >>> import multismooth
        >>> logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
        >>> parts = multismooth.terms(logits, np.array([0, -100]))
        >>> parts.weight.tolist(), parts.predicted.tolist()
        ([1.0, 0.0], [0, -1])
        """
        return self._backend.terms(self._call(logits, targets, reduction="none", **options))

    def loss_and_grad(
        self, logits: Scores, targets: Labels, *, out: Result | None = None, **options: Unpack[LossOptions]
    ) -> tuple[Loss, Result]:
        """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype.

        W = w∘q is the weighted smoothed target. For reduction "none" the gradient is that of the summed loss.
        `out` (PyTorch, NumPy) receives the gradient; it may be the logits array itself. Arguments as in `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> loss, gradient = multismooth.loss_and_grad(np.zeros((1, 4)), np.array([1]), label_smoothing=0.2)
        >>> gradient.round(3).tolist()
        [[0.2, -0.6, 0.2, 0.2]]
        """
        return self._backend.loss_and_grad(self._call(logits, targets, **options), out)

    def smooth_targets(
        self, targets: Labels, num_classes: int, *, dtype: Any = None, axis: int = -1, **options: Unpack[TargetOptions]
    ) -> Result:
        """q = (1 − ε′)·t + ε′·r as rows (N…, K), for losses that take distributions (KLDivLoss, mixup).

        Rows of ignored labels are 0. dtype: None is the framework's default float, or the dtype of soft targets.
        With q, `kl_div(log_softmax(z), q, "batchmean")` has the gradient of this library's mean loss and differs from
        it by the entropy of q alone; its reduction "mean" divides by N·K and is K times too small.

        >>> import numpy as np
        >>> import multismooth
        >>> multismooth.smooth_targets(np.array([2]), 4, label_smoothing=0.2).round(3).tolist()
        [[0.05, 0.05, 0.85, 0.05]]
        """
        template, targets = self._arguments.template(targets, num_classes, axis, dtype)
        return self._backend.smooth_targets(
            self._call_of_shape(template, targets, reduction="none", axis=axis, **options)
        )

    def binary_loss(
        self,
        logits: Scores,
        targets: Labels,
        *,
        label_smoothing: Number | Rows = 0.1,
        spread: Literal["half", "all"] = "half",
        weight: Array | Rows | None = None,
        pos_weight: Number | Rows | None = None,
        sample_weight: Array | Rows | None = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        label_mean: bool = False,
        normalizer: Number | None = None,
        axis: int | None = None,
        validate: bool | None = None,
    ) -> Loss:
        """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label.

        Args:
            logits: (N…) or (N…, K) scores z. targets: t in [0, 1] of the same shape, any dtype.
            spread: "half" gives ε/2 to each of an entry's two classes. "all" gives ε/K to each of the K labels:
                q = t·(1 − ε) + ε/K, as timm, Optax and Scenic do.
            weight: w, (K,) ≥ 0. It multiplies a label's loss and not its share of the mean, as in PyTorch.
            pos_weight: π, broadcasts to the logits. sample_weight: ≥ 0, broadcasts to the logits; 0 excludes the entry.
            ignore_index: entries with this target contribute exactly 0. None ignores no entry.
            label_mean: the loss of an element is the mean over those of its labels that count. "none" gives (N…).
            normalizer: divide the sum by this instead of Σ sample_weight. It needs reduction "mean".
            axis: the axis of the labels, for `spread`, `weight` and `label_mean`. None is the last of two or more.

        >>> import numpy as np
        >>> import multismooth
        >>> round(float(multismooth.binary_loss(np.array([0.0, 3.0]), np.array([1, 1]))), 6)
        0.445867

        Source: Szegedy et al. 2016 for two classes; Keras' BinaryCrossentropy has the same target.
        """
        call = self._arguments.binary(
            logits, targets, label_smoothing, spread, weight, pos_weight, sample_weight,
            ignore_index, reduction, label_mean, normalizer, axis, validate,
        )  # fmt: skip
        return self._backend.binary_loss(call)
