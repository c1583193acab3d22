"""Temperature scaling as an estimator of scikit-learn, which need not be installed."""

from typing import Any

import numpy as np

from multismooth.api.options import Array
from multismooth.calibration import rows
from multismooth.calibration.sample import as_scores
from multismooth.calibration.temperature import TemperatureFit, fit_temperature
from multismooth.errors import complain


class TemperatureScaling:
    """Divides logits by the temperature that `fit_temperature` finds. scikit-learn's clone and pipelines take it.

    Args:
        ignore_index: rows with this label do not count in `fit`.

    Attributes:
        temperature_: T, after `fit`. fit_: the whole `TemperatureFit`. classes_: 0 … K − 1.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> logits = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    >>> scaling = calibration.TemperatureScaling().fit(logits, np.array([0, 0, 1, 1]))
    >>> round(scaling.temperature_, 3), scaling.predict_proba(logits)[0].round(3).tolist()
    (2.043, [0.876, 0.124])

    Source: Guo et al. 2017, §4.2 (arXiv:1706.04599).
    """

    _estimator_type = "classifier"
    temperature_: float
    fit_: TemperatureFit
    classes_: np.ndarray

    def __init__(self, *, ignore_index: int | None = -100) -> None:
        self.ignore_index = ignore_index

    def fit(self, logits: Array, targets: Array) -> "TemperatureScaling":
        """Find the temperature for logits (N…, K) and labels (N…); returns self."""
        self.fit_ = fit_temperature(logits, targets, ignore_index=self.ignore_index)
        self.temperature_ = self.fit_.temperature
        self.classes_ = np.arange(as_scores("logits", logits)[1].shape[-1])
        return self

    def transform(self, logits: Array) -> Any:
        """logits/T, an array of the caller's framework and dtype."""
        if not hasattr(self, "temperature_"):
            raise complain(
                "logits", "a fitted TemperatureScaling", "one before fit", "Call fit(logits, targets) first."
            )
        return as_scores("logits", logits)[1] / self.temperature_

    def predict_proba(self, logits: Array) -> Any:
        """softmax(logits/T), an array of the caller's framework; half precision becomes float32."""
        scaled = self.transform(logits)
        backend, z = as_scores("logits", scaled)
        z = backend.xp.astype(z, backend.xp.float_of(z))
        return rows.Block(backend.xp, z, None, -1, logits=True).probabilities

    def predict(self, logits: Array) -> Any:
        """The class of the largest logit, which no temperature changes."""
        backend, z = as_scores("logits", logits)
        return backend.xp.argmax(z, axis=-1)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """scikit-learn's protocol."""
        return {"ignore_index": self.ignore_index}

    def set_params(self, **params: Any) -> "TemperatureScaling":
        """scikit-learn's protocol."""
        for name, value in params.items():
            if name != "ignore_index":
                raise complain(name, "a parameter of TemperatureScaling", repr(name), "It has ignore_index only.")
            self.ignore_index = value
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "temperature_")

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=TransformerTags(),
            classifier_tags=ClassifierTags(),
        )

    def __repr__(self) -> str:
        given = "" if self.ignore_index == -100 else f"ignore_index={self.ignore_index}"
        return f"TemperatureScaling({given})"
