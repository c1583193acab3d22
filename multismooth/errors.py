"""Errors and warnings. Every text names the argument, what was expected, what was passed, and the remedy."""

from importlib import import_module


class TargetError(ValueError):
    """The targets cannot be what the caller meant: regression values, rows that are no distribution, absent classes."""


class LabelError(TargetError, IndexError):
    """An integer label names no class. Also an IndexError, as `torch.nn.functional.cross_entropy` raises."""


class SmoothingError(ValueError):
    """`label_smoothing` is not a number in [0, 1]."""


class ShardError(ValueError):
    """The processes of one sharded call disagree, or one of them refused its arguments. Every rank raises."""


class SmoothingWarning(UserWarning):
    """The numbers are defined but probably not meant: the smoothed optimum no longer predicts the label."""


class CalibrationWarning(UserWarning):
    """No temperature is best for these logits and labels, so 1 is used."""


class MissingBackendError(ImportError):
    """A framework that is needed is not installed."""


def complain(argument, expected, got, remedy, error=ValueError):
    """An `error` with the text of every error of this library: argument, expected, got, remedy."""
    if not remedy.strip():
        raise ValueError(f"the complaint about `{argument}` lacks a remedy; it expected {expected} and got {got}")
    return error(f"`{argument}`: expected {expected}; got {got}. {remedy}")


def require(framework, extra):
    """Import `framework`, or raise MissingBackendError with the extra that installs it."""
    try:
        import_module(framework)
    except ImportError as error:
        raise MissingBackendError(
            f'multismooth.{extra} needs {framework}, which is not installed: pip install "multismooth[{extra}]"'
        ) from error
