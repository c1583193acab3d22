"""What README.md and the pages in docs/ say in code: it runs, and the numbers beside it are the numbers."""

import ast
import doctest
import os
import re
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import programs
import pytest
from requirements import need

import multismooth

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOGITS = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
LABELS = np.array([0, 4, 1, 2, 1, 3])


def blocks(text, language):
    """The fenced code of this language, in a tab or not."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def values_said(code):
    """(expression, number) of each line `expression  # number`."""
    lines = code.splitlines()
    for node in ast.parse(code).body:
        said = re.search(r"# (\d[\d.]*)$", lines[node.end_lineno - 1])
        if isinstance(node, ast.Expr) and said:
            yield ast.unparse(node), said.group(1)


# --- README ---------------------------------------------------------------------------------------------------------


def test_the_first_program_prints_what_it_says():
    for framework in ("torch", "jax"):
        need(framework)
    code = blocks(README, "python")[0]
    names = {}
    exec(code, names)
    said = list(values_said(code))
    assert len(said) == 3
    for expression, number in said:
        assert f"{float(eval(expression, names)):.4f}" == number, expression


def torch_names():
    torch = need("torch")
    return {"torch": torch, "logits": torch.from_numpy(LOGITS), "labels": torch.from_numpy(LABELS)}


def jax_names():
    jax = need("jax")
    return {"jax": jax, "logits": jax.numpy.asarray(LOGITS), "labels": jax.numpy.asarray(LABELS)}


def keras_names():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    names = jax_names()
    if os.environ["KERAS_BACKEND"] != "jax":
        pytest.skip("KERAS_BACKEND is set to another backend than jax")
    return names | {"keras": need("keras"), "one_hot": names["jax"].nn.one_hot(LABELS, 5)}


def label_smoothed_nll_loss(lprobs, target, epsilon, ignore_index):
    """fairseq 0.12: ((1 − ε − ε_i)·nll + ε_i·Σ_k (−log p_k), nll), ε_i = ε/(K − 1), summed over what is no padding."""
    kept = target != ignore_index
    rows = lprobs[kept]
    nll = -rows[range(len(rows)), target[kept]].sum()
    each = epsilon / (lprobs.shape[-1] - 1)
    return (1 - epsilon - each) * nll - each * rows.sum(), nll


class LabelSmoothingCrossEntropy:
    """timm 1.0: the mean over all rows of (1 − ε)·nll + ε·mean_k (−log p_k)."""

    def __init__(self, smoothing):
        self.smoothing = smoothing

    def __call__(self, x, target):
        log_p = x.log_softmax(-1)
        nll = -log_p[range(len(x)), target].mean()
        return (1 - self.smoothing) * nll - self.smoothing * log_p.mean(-1).mean()


ORIGINALS = {
    "PyTorch": torch_names,
    "Optax": lambda: jax_names() | {"optax": need("optax")},
    "Keras": keras_names,
    "fairseq": lambda: torch_names() | {"label_smoothed_nll_loss": label_smoothed_nll_loss},
    "timm": lambda: torch_names() | {"LabelSmoothingCrossEntropy": LabelSmoothingCrossEntropy},
}


def coming_from():
    """{library: code} of the README's section."""
    section = README.partition("## Coming from")[2].partition("\n## ")[0]
    pairs = re.findall(r"^(\w+)[^\n]*\n\n```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return dict(pairs)


def test_every_library_of_the_section_has_its_test():
    assert list(coming_from()) == list(ORIGINALS)
    assert len(blocks(README, "python")) == 1 + len(ORIGINALS)


def evaluated(library, **convention):
    """Both numbers and both gradients of a library's two lines, with another name for the convention if wanted."""
    names = ORIGINALS[library]() | {"multismooth": multismooth}
    code = coming_from()[library]
    for own, other in convention.items():
        assert f'convention="{own}"' in code
        code = code.replace(f'convention="{own}"', f'convention="{other}"')

    def losses(logits):
        run = names | {"logits": logits}
        exec(code, run)
        return run["theirs"], run["ours"]

    if "torch" in names:
        torch = names["torch"]
        logits = names["logits"].clone().requires_grad_()
        values = losses(logits)
        slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0].numpy() for value in values]
    else:
        values = losses(names["logits"])
        slopes = [names["jax"].grad(lambda z, place=place: losses(z)[place])(names["logits"]) for place in (0, 1)]
    return [value.item() for value in values], [np.asarray(slope) for slope in slopes]


@pytest.mark.parametrize("library", ORIGINALS)
def test_both_lines_give_the_same_number_and_gradient(library):
    (theirs, ours), (their_slope, our_slope) = evaluated(library)
    assert ours == pytest.approx(theirs, rel=1e-6)
    np.testing.assert_allclose(our_slope, their_slope, atol=1e-6)


@pytest.mark.parametrize(
    ("library", "own", "other"),
    [("fairseq", "fairseq", "torch"), ("timm", "timm", "others"), ("Keras", "keras", "others")],
)
def test_another_convention_would_be_noticed(library, own, other):
    (theirs, ours), _ = evaluated(library, **{own: other})
    assert ours != pytest.approx(theirs, rel=1e-4)


def test_the_conversion_in_the_text():
    said = re.search(r"`(conventions\[[^`]*)`\s+is (\d[\d.]*\d)", README)
    assert eval(said.group(1), {"conventions": multismooth.conventions}) == float(said.group(2))


def test_on_pypi_every_link_of_the_readme_is_whole():
    """The build replaces what is relative (`substitutions` in pyproject.toml)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = README
    for change in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []


def test_every_function_in_the_readme_exists():
    for name in re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE):
        assert callable(getattr(multismooth, name)), name


def test_every_local_link_leads_somewhere():
    for page in (ROOT / "README.md", *PAGES):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            built = target.startswith("gallery/")  # by the documentation's build, which follows links itself
            assert built or (page.parent / target).exists(), f"{page.name}: {target}"


# --- docs -----------------------------------------------------------------------------------------------------------


def test_the_quickstart_says_what_its_code_gives():
    """A tab is a program of its own, and starts with its imports."""
    programs = blocks((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"), "python")
    assert len(programs) == 12
    for code in programs:
        for framework in re.findall(r"^import (torch|jax)", code, re.MULTILINE):
            need(framework)
        names = {}
        exec(code, names)
        said = list(values_said(code))
        assert said, code
        for expression, number in said:
            assert f"{eval(expression, names):.4f}" == number, expression


@pytest.mark.thorough
@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_runs_and_its_checks_hold(path):
    for framework in ("torch", "matplotlib", "sklearn"):
        need(framework)
    if path.stem == "port":
        need("optax")
    code = path.read_text(encoding="utf-8")
    assert "assert " in code
    imports = "torch._dynamo", "numba", "sklearn.datasets", "matplotlib.pyplot"
    ended = programs.run(path, imports=imports)
    assert ended.returncode == 0, ended.stderr


class Rounded(doctest.OutputChecker):
    """What is below 1e-12 is rounding, and another number on another machine."""

    def check_output(self, want, got, flags):
        want, got = (re.sub(r"\b\d\.\de-1[2-9]\b", "ROUNDING", text) for text in (want, got))
        return super().check_output(want, got, flags)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_the_code_of_a_page_prints_what_the_page_says(page):
    code = "\n".join(blocks(page.read_text(encoding="utf-8"), "pycon"))
    for framework in re.findall(r"^>>> import (torch|jax|keras)", code, re.MULTILINE):
        need(framework)
    test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    runner, said = doctest.DocTestRunner(Rounded(), optionflags=doctest.ELLIPSIS, verbose=False), []
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert runner.tries == code.count(">>>")
