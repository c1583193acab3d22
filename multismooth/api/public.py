"""Makes the public functions of a module from the bound methods of `Functions`.

They are plain functions with the module's name and their own, which pickle, deepcopy, `help`, compilers and errors use.
For a call with wrong arguments, Python's own error names internals and counts `self` as an argument. `misused` makes a
better one.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, NamedTuple, ParamSpec, TypeVar

from multismooth.api.options import signature_of

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# The names that other libraries use for each argument. A name may stand for several of them; those that the function
# has are suggested.
SYNONYMS = {
    "label_smoothing": "smoothing smooth smoothing_factor label_smoothing_factor label_smooth ls_eps eps epsilon alpha",
    "weight": "class_weight class_weights weights label_weights ce_weight",
    "pos_weight": "positive_weight class_weight class_weights",
    "sample_weight": "weight weights mask where padding_mask attention_mask loss_mask element_weight",
    "class_mask": "mask where logits_mask",
    "ignore_index": "ignore_label ignored_index pad pad_id pad_token_id padding_idx padding_index ignore_class",
    "reduction": "size_average reduce average aggregation",
    "normalizer": "num_items num_items_in_batch denominator divisor avg_factor num_tokens",
    "z_loss": "z_loss_weight lse_square_scale z_loss_multiplier",
    "logit_softcap": "softcap soft_cap logit_cap final_logit_softcapping logits_soft_cap logits_softcap",
    "axis": "dim class_axis class_dim",
    "group": "process_group tp_group",
    "bias": "linear_bias classifier_bias",
    "hidden": "input inputs features embeddings hidden_states",
    "classifier": "linear_weight lm_head_weight head_weight",
    "logits": "input inputs scores y_pred preds predictions outputs",
    "targets": "target labels label y_true y one_hot",
    "num_classes": "classes n_classes vocab_size depth",
    "prior": "label_prior class_prior unigram smoothing_distribution",
    "gamma": "focusing focusing_parameter",
    "beta": "penalty entropy_weight confidence_penalty",
    "strength": "alpha penalty weight",
    "teacher_logits": "teacher teacher_outputs soft_targets",
    "temperature": "t tau temp T",
    "hard_weight": "alpha hard_loss_weight label_weight",
    "convention": "style variant method mode",
}


class Elsewhere(NamedTuple):
    """Where calls of a method go whose first argument is not of these types, and those with one of these keywords."""

    function: Callable
    types: tuple[type, ...]
    keywords: tuple[str, ...]


def public(method: Callable[Arguments, Result], module: str) -> Callable[Arguments, Result]:
    """A bound method of `Functions` as a function of a module."""
    functions: Any = method.__self__  # type: ignore[attr-defined]
    written = signature_of(method, functions._backend.options, functions._backend.types)
    known, elsewhere = frozenset(written.parameters), functions.elsewhere(method)
    here = known if elsewhere is None else known.difference(elsewhere.keywords)

    @wraps(method)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        function = method
        if elsewhere is not None and not (args and type(args[0]) in elsewhere.types):
            function = elsewhere.function
        for name in options:
            if name not in known:
                raise unexpected(call.__name__, name, written.parameters)
            if name not in here:
                function = elsewhere.function
        try:
            return function(*args, **options)
        except TypeError:
            wrong = misused(call, args, options)
            if wrong is None:
                raise
        raise wrong

    call.__signature__ = written  # type: ignore[attr-defined]
    return named(call, module)


def named(function, module):
    """The function as a member of the module, with a code object of its own: `torch.compile` limits how often it
    recompiles each code object."""
    name = function.__name__
    function.__module__, function.__qualname__ = module, name
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    return function


def misused(function: Callable, args: tuple, options: dict[str, Any]) -> TypeError | None:
    """The error for a call that does not fit the function's signature, with a suggestion. None for a call that fits."""
    parameters, name = signature(function).parameters, function.__name__
    positional = [p.name for p in parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    first = ", ".join(positional)
    for keyword in options:
        if keyword not in parameters:
            return unexpected(name, keyword, parameters)
    if len(args) > len(positional):
        extra = args[len(positional)]
        example = f"label_smoothing={extra!r}" if isinstance(extra, float) else "label_smoothing=0.1"
        return TypeError(
            f"{name}() takes {len(positional)} positional arguments ({first}) but {len(args)} were given. "
            f"Settings are keywords: {example}."
        )
    if repeated := [p for p in positional[: len(args)] if p in options]:
        return TypeError(
            f"{name}() got {repeated[0]!r} twice, by position and by name. Its first arguments are {first}."
        )
    needed = [p.name for p in parameters.values() if p.default is Parameter.empty and p.name not in options]
    if missing := [p for p in needed if p not in positional[: len(args)]]:
        return TypeError(f"{name}() is missing {' and '.join(map(repr, missing))}. Its first arguments are {first}.")
    return None


def unexpected(name, keyword, parameters):
    """The error for a keyword that a function or class of this name does not take."""
    return TypeError(f"{name}() got an unexpected keyword argument {keyword!r}. {meant(keyword, parameters)}")


def meant(word, parameters):
    """A suggestion for an unknown keyword."""
    found = [own for own, others in SYNONYMS.items() if own in parameters and word.lower() in others.split()]
    found = found or get_close_matches(word.lower(), parameters, n=1)
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return f"It takes {', '.join(parameters)}."
