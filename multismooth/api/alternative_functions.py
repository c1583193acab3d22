"""The public functions of the losses beside smoothing. `functions` inherits them.

A number that makes one of them the plain loss (γ = 0, β = 0, strength = 0, hard_weight = 1) makes it `loss` itself.
"""

from __future__ import annotations

from typing import Any, Literal, Unpack

from multismooth.api.options import Labels, Loss, Number, Rows, Scores, UnsmoothedOptions


class AlternativeFunctions:
    """`focal_loss` and related functions, for `multismooth.api.functions.Functions`."""

    _backend: Any
    _parameters: Any
    _call: Any

    def focal_loss(
        self,
        logits: Scores,
        targets: Labels,
        *,
        gamma: Number = 2.0,
        modulation: Literal["class", "label"] = "class",
        label_smoothing: Number | Rows = 0.0,
        **options: Unpack[UnsmoothedOptions],
    ) -> Loss:
        """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class.

        Args:
            gamma: γ ≥ 0, a number or a 0-d array. 0 is `loss`.
            modulation: "class" as above, as in Keras. "label": (1 − p_y)^γ times the whole loss, for labels only.

        The z-loss, and the entropy of the target that objective "kl" adds under "class", are not modulated. There is no
        α: balance classes with `weight`. The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
        >>> round(float(multismooth.focal_loss(logits, np.array([0, 2]), gamma=2.0)), 6)
        0.007619

        Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4 (arXiv:1708.02002).
        """
        call = self._call(logits, targets, label_smoothing=label_smoothing, **options)
        alternative = self._parameters.focal(gamma, modulation, *call[:2], options.get("validate"))
        return self._backend.loss(call) if zero(alternative.gamma) else self._backend.alternative(call, alternative)

    def confidence_penalty(
        self,
        logits: Scores,
        targets: Labels,
        *,
        beta: Number = 0.1,
        label_smoothing: Number | Rows = 0.0,
        **options: Unpack[UnsmoothedOptions],
    ) -> Loss:
        """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K.

        Args:
            beta: β ≥ 0, a number or a 0-d array. 0 is `loss`.

        The entropy is multiplied by the sample weight and not by class weights, and its mean divides by what the loss's
        mean divides by. The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
        >>> round(float(multismooth.confidence_penalty(logits, np.array([0, 2]), beta=0.1)), 6)
        0.148286

        Source: Pereyra et al. 2017, Regularizing Neural Networks by Penalizing Confident Output Distributions, §3
        (arXiv:1701.06548).
        """
        call = self._call(logits, targets, label_smoothing=label_smoothing, **options)
        alternative = self._parameters.penalty(beta, call.problem, options.get("validate"))
        return self._backend.loss(call) if zero(alternative.strength) else self._backend.alternative(call, alternative)

    def margin_smoothing(
        self,
        logits: Scores,
        targets: Labels,
        *,
        margin: Number = 10.0,
        strength: Number = 0.1,
        label_smoothing: Number | Rows = 0.0,
        **options: Unpack[UnsmoothedOptions],
    ) -> Loss:
        """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced.

        Args:
            margin: how far a logit may lie below the largest at no cost, ≥ 0, a number or a 0-d array.
            strength: ≥ 0, a number or a 0-d array. 0 is `loss`.

        The mean is over the classes that exist, as in the authors' code. Their paper sums: multiply `strength` by K.
        The term is multiplied by the sample weight and not by class weights, and its mean divides by what the loss's
        mean divides by. The other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> logits = np.array([[20.0, 0.0, -1.0]])
        >>> round(float(multismooth.margin_smoothing(logits, np.array([0]))), 6)
        0.7

        Source: Liu et al. 2022, The Devil is in the Margin, eq. 6 (arXiv:2111.15430).
        """
        call = self._call(logits, targets, label_smoothing=label_smoothing, **options)
        alternative = self._parameters.margin(margin, strength, call.problem, options.get("validate"))
        return self._backend.loss(call) if zero(alternative.strength) else self._backend.alternative(call, alternative)

    def distillation_loss(
        self,
        logits: Scores,
        teacher_logits: Scores,
        targets: Labels | None = None,
        *,
        temperature: Number,
        hard_weight: Number = 0.0,
        label_smoothing: Number | Rows = 0.0,
        **options: Unpack[UnsmoothedOptions],
    ) -> Loss:
        """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced.

        Args:
            teacher_logits: the shape of the logits. They are a constant: the teacher gets no gradient.
            targets: as in `loss`, or None with hard_weight 0. Elements with the label `ignore_index` count for nothing.
            temperature: T > 0, a number or a 0-d array. It has no default, because results depend on it.
            hard_weight: h in [0, 1], a number or a 0-d array. 1 is `loss`.

        T² keeps the gradient of the first term as large for all T. A z-loss is added as it is, whatever h is. A soft
        cap is the student's: the teacher's logits are taken as they are. Class weights weigh the second term alone. The
        other arguments, results and errors are those of `loss`.

        >>> import numpy as np
        >>> import multismooth
        >>> student, teacher = np.array([[2.0, 0.5, -1.0]]), np.array([[3.0, 1.0, -2.0]])
        >>> round(float(multismooth.distillation_loss(student, teacher, temperature=2.0)), 6)
        0.145584

        Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, §2 (arXiv:1503.02531).
        """
        learns_labels = targets is not None
        if not learns_labels:
            targets, axis = self._parameters.any_labels(logits, **options)
            options |= {"axis": axis, "ignore_index": None}
        call = self._call(logits, targets, label_smoothing=label_smoothing, **options)
        alternative = self._parameters.distillation(
            teacher_logits, temperature, hard_weight, learns_labels, *call[:2], options.get("validate")
        )
        if isinstance(alternative.hard_weight, float) and alternative.hard_weight == 1.0:
            return self._backend.loss(call)
        return self._backend.alternative(call, alternative)


def zero(number):
    """Whether a parameter is known to be 0."""
    return isinstance(number, float) and number == 0.0
