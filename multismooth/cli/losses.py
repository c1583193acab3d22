"""check, compare and identify: what a user's loss function computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from multismooth.cli.app import AsJson, Smoothing, app, errors_as_status_2, print_json, print_text, spinner
from multismooth.cli.logged import logged
from multismooth.cli.target import GRAMMAR, load, load_convention
from multismooth.errors import complain

Target = typer.Argument(help=f"{GRAMMAR}; it is called as fn(logits, targets).", metavar="[TARGET]")
Exec = Annotated[str | None, typer.Option("--exec", help="A program of any language, in the place of TARGET.")]
Layouts = Annotated[str, typer.Option(help="Layouts to try: rows, sentences, channels, images. All by default.")]
Keywords = typer.Option("--with", help="name=value for the function, or for making the class; may be repeated.")
Framework = Annotated[str | None, typer.Option(help="torch, jax, tensorflow, mlx, tinygrad, paddle or numpy.")]
Classes = Annotated[int | None, typer.Option("--num-classes", "-k", help="K, if it takes one K only.")]
Accepts = Annotated[str, typer.Option(help="Keywords that it takes as multismooth.loss does, e.g. weight,reduction.")]
Compiled = Annotated[bool, typer.Option("--compile", help="Also under the framework's compiler.")]
Strict = Annotated[bool, typer.Option("--strict", help="Remarks are failures.")]
Skip = Annotated[str, typer.Option(help="Trials to leave out, e.g. 'bad labels,repeat'.")]
IgnoreIndex = Annotated[str | None, typer.Option("--ignore-index", help="The ignored label, or none.")]


@app.command()
def check(
    target: Annotated[str | None, Target] = None,
    convention: Annotated[
        str, typer.Option("--convention", "-c", help="The convention that it should have: a name, or file.py:name.")
    ] = "torch",
    label_smoothing: Smoothing = 0.1,
    ignore_index: IgnoreIndex = None,
    reduction: Annotated[str, typer.Option(help="mean, sum or none.")] = "mean",
    weight: Annotated[str | None, typer.Option(help="Class weights that it closes over: 1,2,0.5.")] = None,
    z_loss: Annotated[float, typer.Option(help="The factor of its log² Z term.")] = 0.0,
    normalizer: Annotated[str | None, typer.Option(help="The number that it divides by, or sentences.")] = None,
    program: Exec = None,
    framework: Framework = None,
    num_classes: Classes = None,
    layouts: Layouts = "",
    accepts: Accepts = "",
    keywords: Annotated[list[str] | None, Keywords] = None,
    compile: Compiled = False,
    strict: Strict = False,
    skip: Skip = "",
    as_json: AsJson = False,
) -> None:
    """Compare a loss with the convention that it should have, in values and gradients.

    --exec 'program arguments' checks a program of any language: it reads a JSON problem a line, and answers in JSON.

    Ends with status 0 if it agrees, with 1 if not, with 2 if it cannot be called.

    Example: [bold]multismooth check torch.nn.functional:cross_entropy --with label_smoothing=0.1[/bold]
    """
    from multismooth import parity

    settings = {"label_smoothing": label_smoothing, "reduction": reduction, "z_loss": z_loss}
    with errors_as_status_2(), spinner(f"checking {target or program}"):
        fn, framework, layouts_of_fn = _loss(target, program, keywords, framework, layouts)
        settings |= _ignore_index(ignore_index)
        if weight is not None:
            settings["weight"] = _numbers("--weight", weight)
        if normalizer is not None:
            settings["normalizer"] = normalizer if normalizer == "sentences" else _number("--normalizer", normalizer)
        options = {"framework": framework, "num_classes": num_classes, "accepts": _names(accepts), "compile": compile}
        options |= {} if layouts_of_fn is None else {"layouts": layouts_of_fn}
        report = parity.check(fn, load_convention(convention), **settings, **options, strict=strict, skip=_names(skip))
    _print_and_exit(report, as_json)


@app.command()
def compare(
    target_a: Annotated[str | None, typer.Argument(help=f"One loss: {GRAMMAR}.", metavar="[TARGET_A]")] = None,
    target_b: Annotated[str | None, typer.Argument(help="The other one.", metavar="[TARGET_B]")] = None,
    programs: Annotated[
        list[str] | None, typer.Option("--exec", help="A program in the place of a target: at most two of these.")
    ] = None,
    ignore_index: IgnoreIndex = None,
    framework_a: Framework = None,
    framework_b: Framework = None,
    num_classes: Classes = None,
    layouts: Layouts = "",
    accepts: Accepts = "",
    keywords_a: Annotated[list[str] | None, typer.Option("--with-a", help="name=value for TARGET_A.")] = None,
    keywords_b: Annotated[list[str] | None, typer.Option("--with-b", help="name=value for TARGET_B.")] = None,
    compile: Compiled = False,
    strict: Strict = False,
    skip: Skip = "",
    as_json: AsJson = False,
) -> None:
    """Compare two losses, of one framework or of two.

    Ends with status 0 if they agree, with 1 if not, with 2 if one cannot be called.

    Example: [bold]multismooth compare original.py:criterion port.py:loss --ignore-index 1[/bold]
    """
    from multismooth import parity

    with errors_as_status_2(), spinner("comparing two losses"):
        given = [(target, keywords) for target, keywords in ((target_a, keywords_a), (target_b, keywords_b)) if target]
        sides: list[tuple] = [(None, program, None) for program in programs or ()]
        sides += [(target, None, keywords) for target, keywords in given]
        if len(sides) != 2:
            raise complain("targets", "two losses", f"{len(sides)}", "Name two, or use --exec for one or both.")
        losses = [
            _loss(target, program, keywords, framework, layouts)
            for (target, program, keywords), framework in zip(sides, (framework_a, framework_b), strict=True)
        ]
        chosen = next((names for *_, names in losses if names is not None), None)
        report = parity.compare(
            *(fn for fn, *_ in losses),
            **_ignore_index(ignore_index),
            frameworks=tuple(framework for _, framework, _ in losses),
            num_classes=num_classes,
            layouts=chosen,
            accepts=_names(accepts),
            compile=compile,
            strict=strict,
            skip=_names(skip),
        )
    _print_and_exit(report, as_json)


@app.command()
def identify(
    target: Annotated[str | None, Target] = None,
    program: Exec = None,
    numbers: Annotated[
        str | None, typer.Option(help="Logged numbers instead: a .npz or .json file with logits, labels and loss.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="The logged loss, if the file has none: 2.3145.")] = None,
    framework: Framework = None,
    num_classes: Classes = None,
    layouts: Layouts = "",
    weight: Annotated[str | None, typer.Option(help="Class weights that it closes over, if known: 1,2,0.5.")] = None,
    keywords: Annotated[list[str] | None, Keywords] = None,
    as_json: AsJson = False,
) -> None:
    """Find out which convention a loss implements: ε, spread, ignored label, weights, what its mean divides by.

    --numbers finds out which conventions, denominators and ε give a loss that was logged with its logits and labels.

    Ends with status 0 if one fits, with 1 if none does, with 2 if it cannot be called.

    Example: [bold]multismooth identify mytraining.losses:criterion[/bold]
    """
    from multismooth import parity

    with errors_as_status_2(), spinner(f"identifying {target or program or numbers}"):
        found: parity.Identification | parity.Candidates
        if numbers is not None:
            found = parity.identify_value(*logged(numbers, loss))
        else:
            known = None if weight is None else _numbers("--weight", weight)
            fn, framework, chosen = _loss(target, program, keywords, framework, layouts)
            found = parity.identify(fn, framework, num_classes=num_classes, weight=known, layouts=chosen)
    _print_and_exit(found, as_json)


@app.command()
def vectors(
    convention: Annotated[str, typer.Option("--convention", "-c", help="The convention.")] = "torch",
    label_smoothing: Smoothing = 0.1,
    ignore_index: IgnoreIndex = None,
    reduction: Annotated[str, typer.Option(help="mean, sum or none.")] = "mean",
    out: Annotated[str | None, typer.Option(help="The file to write; by default they are printed.")] = None,
) -> None:
    """Write golden test vectors for projects without Python: inputs, loss, gradient and tolerances, as JSON.

    Example: [bold]multismooth vectors -c fairseq --out fairseq.json[/bold]
    """
    from multismooth import parity

    with errors_as_status_2():
        settings = {"label_smoothing": label_smoothing, "reduction": reduction, **_ignore_index(ignore_index)}
        found = parity.vectors(load_convention(convention), **settings)
        if out is None:
            print_json(found)
            return
        Path(out).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    print_text(f"{len(found['cases'])} cases of {found['convention']['name']} in {out}")


def _loss(target, program, keywords, framework, layouts):
    """(fn, its framework, the layouts to try or None for all) of a target or of a program. A program gets (N, K)."""
    from multismooth.parity import Program

    if (target is None) == (program is None):
        got = "both" if target else "neither"
        raise complain("target", "a target, or a program as --exec", got, f"A target is {GRAMMAR}.")
    chosen = _names(layouts) or None
    if program is not None:
        return Program(program), "numpy", chosen or ["rows"]
    return load(target, keywords or ()), framework, chosen


def _print_and_exit(found, as_json):
    if as_json:
        print_json(found.to_dict())
    else:
        print_text(found)
    raise typer.Exit(0 if found else 1)


def _ignore_index(text):
    """{"ignore_index": …} if the option was passed, else {}."""
    if text is None:
        return {}
    if text.lower() == "none":
        return {"ignore_index": None}
    try:
        return {"ignore_index": int(text)}
    except ValueError as error:
        remedy = "It is a label; none ignores no label."
        raise complain("--ignore-index", "an integer or none", repr(text), remedy) from error


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _number(option, text):
    try:
        return float(text)
    except ValueError as error:
        raise complain(option, "a number", repr(text), "Write it with a point, as in 0.1.") from error


def _numbers(option, text):
    return [_number(option, part) for part in text.split(",")]
