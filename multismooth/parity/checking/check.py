"""`check` compares a loss with the specification, `compare` compares two losses with each other."""

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.connecting import NUMBERS_OF_CLASSES
from multismooth.parity.calling.forms import LAYOUTS
from multismooth.parity.checking.advice import Names, advice, advice_on_two
from multismooth.parity.checking.cases import ARGUMENT_CASES, Domain
from multismooth.parity.checking.report import Report
from multismooth.parity.checking.run import chosen_names, explains_failure, run
from multismooth.parity.checking.subjects import Reference, Subject
from multismooth.parity.checking.trials import TRIAL_NAMES
from multismooth.parity.reading import SENTENCE_MEANS, SENTENCES, Reading
from multismooth.registry import resolve

RECORDED = "recorded"  # the label that the convention's original ignores


def check(
    fn,
    convention="torch",
    *,
    label_smoothing=0.1,
    weight=None,
    prior=None,
    class_mask=None,
    ignore_index=RECORDED,
    z_loss=0.0,
    reduction="mean",
    normalizer=None,
    framework=None,
    num_classes=None,
    layouts=None,
    accepts=(),
    compile=False,
    strict=False,
    skip=(),
) -> Report:
    r"""Whether fn(logits, targets) is `multismooth.loss(logits, targets, convention=…)`, in values and gradients.

    Args:
        fn: takes floating logits and integer labels, or rows of probabilities, of any framework and in any of the
            `layouts`; returns a loss, one per element, or (loss, gradient with respect to the logits).
        convention, label_smoothing, weight, prior, class_mask, z_loss, reduction: what fn is meant to compute, as in
            `multismooth.loss`. `weight`, `prior` and `class_mask` have shape (K,), and fix K.
        ignore_index: the label that fn ignores; by default the one that the convention records. None: no label.
        normalizer: the number that fn divides by, or "sentences": the length of its first axis. With reduction
            "sentence means", "nothing" is their sum.
        framework: "torch", "jax", "tensorflow", "mlx", "tinygrad", "paddle" or "numpy"; None takes the first that
            works.
        num_classes: K, for an fn that takes one K only; None tries several.
        layouts: names of the layouts to try: "rows" (N, K), "sentences" (B, T, K), "channels" (B, K, T), "images"
            (N, K, H, W). None tries them all, and fn must be right in each that it takes.
        accepts: names of arguments that fn takes by keyword, with the meaning that they have in `multismooth.loss`.
            They are varied, too.
        compile: call fn also under `torch.compile`; in JAX, where losses are compiled anyway, without `jax.jit`.
        strict: count remarks as failures. Well-known losses get remarks too, such as NaN for a mean over nothing.
        skip: names of trials to leave out.

    Returns:
        Report, true if everything agrees. Its text says what differs first, and what to pass.

    Raises:
        ValueError: fn cannot be called; a setting or a name means nothing.

    >>> import numpy as np
    >>> from multismooth import parity
    >>> def criterion(z, y):
    ...     log_p = z - z.max(1, keepdims=True)
    ...     log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    ...     return -(0.9 * log_p[np.arange(len(y)), y] + 0.1 * log_p.mean(1)).mean()
    >>> bool(parity.check(criterion, "keras", skip=["bad labels"]))
    True
    >>> report = parity.check(criterion, "others", ignore_index=None)
    >>> print(report.first)
    values (one element: 1 × 5): loss is 1.4505809; expected 1.4649559 (0.9902 times it)
    >>> print(*report.advice[0].split(";"), sep="\n")
    fn spreads ε = 0.1 over all K classes
     the reference spreads ε = 0.1 over the K − 1 others: pass label_smoothing=0.125 to fn (K = 5)
    """
    convention = resolve(convention)
    arrays = {"weight": weight, "prior": prior, "class_mask": class_mask}
    arrays = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    settings = {
        "convention": convention,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "ignore_index": convention.ignore_index if ignore_index is RECORDED else ignore_index,
        "z_loss": z_loss,
        "normalizer": normalizer,
        **arrays,
    }
    _require_normalizer(settings)
    accepts = chosen_names("accepts", accepts, ARGUMENT_CASES)
    skip = chosen_names("skip", skip, TRIAL_NAMES)
    fixed_k = _fixed_num_classes(num_classes, arrays)
    keywords = {name: settings[name] for name in accepts if settings.get(name) is not None}
    has_sentences = normalizer == SENTENCES or reduction == SENTENCE_MEANS
    known = [name for name in LAYOUTS if name != "rows" or not has_sentences]
    layouts = known if layouts is None else chosen_names("layouts", layouts, known)
    subject = Subject(fn, framework, fixed_k, keywords, layouts=layouts)
    reference = Reference(settings, subject.shape, subject.box.form.targets == "rows")
    domain = _domain(subject, fixed_k is None, settings, accepts)
    reference.answer(domain.case("a batch"))  # raises for bad settings, by their names
    ran = run([subject], reference, domain, weight=settings.get("weight"), compile=compile, strict=strict, skip=skip)
    sentences = ran.remedy
    if ran.identified:
        expected = Reading(**{name: value for name, value in settings.items() if name != "class_mask"})
        explains = explains_failure(subject, ran.case, settings.get("class_mask"))
        sentences += advice(ran.identified[0], expected, Names("fn", "the reference"), domain, explains)
    against = f"{convention.name or 'the convention'} ({_settings_text(settings)})"
    return Report(subject.name, against, ran.outcomes, sentences, ran.code, ran.identified)


def compare(
    fn_a,
    fn_b,
    *,
    ignore_index=None,
    frameworks=(None, None),
    num_classes=None,
    layouts=None,
    accepts=(),
    compile=False,
    strict=False,
    skip=(),
) -> Report:
    r"""Whether two losses are the same function of (logits, targets), in values and gradients, frameworks mixed.

    Args:
        fn_a, fn_b: as `check` takes them, each of its own framework.
        ignore_index: the label that both ignore. None: all labels lie in [0, K), but for a trial of K, −1 and −100.
        frameworks: the framework of fn_a and that of fn_b; None takes the first that works.
        num_classes, layouts, accepts, compile, strict, skip: as in `check`; `compile` concerns fn_a.

    Returns:
        Report, true if they agree. Otherwise it says what each of them is, and what sets them apart.

    >>> import numpy as np
    >>> from multismooth import parity
    >>> import multismooth
    >>> def original(z, y):
    ...     return multismooth.numpy.loss(z, y, convention="fairseq")
    >>> def port(z, y):
    ...     return multismooth.numpy.loss(z, y, convention="fairseq", reduction="sum")
    >>> print(parity.compare(port, original).advice[0])
    port reduces by 'sum'; original by 'mean'
    """
    accepts = chosen_names("accepts", accepts, ARGUMENT_CASES)
    skip = chosen_names("skip", skip, TRIAL_NAMES)
    keywords = {"ignore_index": ignore_index} if "ignore_index" in accepts and ignore_index is not None else {}
    layouts = tuple(LAYOUTS) if layouts is None else chosen_names("layouts", layouts, LAYOUTS)
    a = Subject(fn_a, frameworks[0], num_classes, keywords, "fn_a", layouts=layouts)
    b = Subject(fn_b, frameworks[1], a.box.num_classes, keywords, "fn_b", layouts=layouts)
    if a.name == b.name:
        a.name, b.name = f"{a.name} (a)", f"{b.name} (b)"
    any_num_classes = num_classes is None and a.box.num_classes == NUMBERS_OF_CLASSES[0]
    others = tuple(dict.fromkeys([*a.other_layouts, *b.other_layouts]))
    domain = Domain(
        a.box.num_classes,
        any_num_classes,
        ignore_index=ignore_index,
        accepts=accepts,
        layouts=others,
        has_sentences=a.box.form.layout != "rows",
        takes_rows=a.takes_rows and b.takes_rows,
    )
    ran = run([a, b], b, domain, compile=compile, strict=strict, skip=skip)
    sentences = ran.remedy
    if ran.identified:
        sentences += advice_on_two(ran.identified, Names(a.name, b.name), domain, explains_failure(a, ran.case))
    return Report(a.name, b.name, ran.outcomes, sentences, ran.code, ran.identified)


def _require_normalizer(settings):
    """ValueError where the mean divides by a number of the caller's and none was passed."""
    convention = settings["convention"]
    if (convention.denominator, settings["reduction"], settings["normalizer"]) == ("caller", "mean", None):
        raise complain(
            "normalizer",
            f'a number, or "sentences": the mean of {convention.name or "this convention"} divides by what only the '
            "caller knows",
            "None",
            'Pass what fn divides by, or reduction="sum".',
        )


def _fixed_num_classes(num_classes, arrays):
    """K where num_classes or an array fixes it, else None."""
    sizes = {name: array.shape[-1] for name, array in arrays.items() if array.ndim}
    for name, size in sizes.items():
        if num_classes not in (None, size):
            remedy = "Leave num_classes to the arrays, or give all of them as many entries."
            raise complain(name, f"one entry for each of the {num_classes} classes", f"{size}", remedy)
        num_classes = size
    return num_classes


def _domain(subject, any_num_classes, settings, accepts):
    mask, num_classes = settings.get("class_mask"), subject.box.num_classes
    takes_rows = subject.takes_rows
    absent = [] if mask is None else np.flatnonzero(~mask).tolist()
    return Domain(
        num_classes,
        any_num_classes and num_classes == NUMBERS_OF_CLASSES[0],
        forbidden_labels=frozenset([*settings["convention"].exclude, *absent]),
        ignore_index=None if subject.box.form.targets == "rows" else settings["ignore_index"],
        accepts=accepts,
        layouts=subject.other_layouts,
        has_sentences=subject.box.form.layout != "rows",
        takes_rows=takes_rows,
        takes_prior=settings["convention"].spread == "all",
        class_mask=mask,
    )


def _settings_text(settings):
    shown = {name: value for name, value in settings.items() if name != "convention" and value is not None}
    return ", ".join(
        f"{n}={v.tolist() if isinstance(v, np.ndarray) else repr(v)}" for n, v in shown.items() if n != "z_loss" or v
    )
