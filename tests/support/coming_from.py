"""Write docs/coming_from.md from the registry: each name's one-line equivalent, and how far it is from its library."""

import math
from pathlib import Path

from adapters import NUMPY
from formulas import difference
from golden_cases import behind

from multismooth import conventions
from multismooth.registry import aliases, frameworks, speech, text, unexpressed, vision

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
CALLER = {  # what each library divides by that only the caller knows
    "t5x": "loss_normalizing_factor",
    "speechbrain-kldiv": "1",
    "espnet": "utterances",
    "espnet-chainer": "utterances",
    "espnet-rnn": "utterances",
    "wenet": "utterances",
    "joeynmt": "normalization",
}
FAMILIES = {
    "Frameworks": frameworks.FRAMEWORKS,
    "Kernels": frameworks.KERNELS,
    "Text": text.TEXT,
    "Speech": speech.SPEECH,
    "Images and graphs": vision.VISION,
}
HEAD = """# Coming from another library

What to write for the loss of another library, after `from multismooth import loss`: the name of its convention, and the
arguments that its defaults imply. `logits` and `labels` are the ones that it was given, and ε has the value it had.

```pycon
>>> import multismooth
>>> multismooth.conventions["fairseq"].source
'fairseq 0.12, fairseq/criterions/label_smoothed_cross_entropy.py'
>>> multismooth.conventions["fairseq"].smoothing_for(multismooth.conventions["torch"], 0.1, 5)
0.125
```

"measured" is the largest difference, of the losses and of the gradients alike, from what the library itself returned
for its recorded calls; their number is in parentheses. Most differences above 1e-12 are float32 roundings of the
library. Where nothing is recorded, it is the difference from the formula in the library's source, which is not a run of
the library: then "formula" stands in parentheses. For a loss of your own, [`parity.check`](parity.md) measures it.
Sums and losses per element (`reduction="sum"`, `"none"`) need no `normalizer`. Where a library takes the index of
padding from its vocabulary, 0 stands for it in `ignore_index` and in the columns that get no mass; for another, use
`dataclasses.replace(convention, exclude=(pad,))`.
"""


def bound(gap):
    """A gap rounded up to one digit; below 1e-12 there is nothing to tell."""
    if gap < 1e-12:
        return "< 1e-12"
    unit = 10.0 ** math.floor(math.log10(gap))
    return f"{math.ceil(gap / unit) * unit:.0e}"


def measured(name):
    """How far a name is from the records of its library, or else from its formula."""
    chosen = behind(name)
    if not chosen:
        return f"{bound(difference(name))} (formula)"
    gaps = [max(case.difference(NUMPY, conventions[name])) for case in chosen]
    return f"{bound(max(gaps))} ({len(gaps)})"


def line(convention):
    """The call that stands for the library's."""
    arguments = ["logits", "labels", "label_smoothing=ε", f'convention="{convention.name}"']
    if convention.ignore_index not in (None, -100):
        arguments.append(f"ignore_index={convention.ignore_index}")
    if convention.denominator == "caller":
        arguments.append(f"normalizer={CALLER.get(convention.name, 'sentences')}")
    if convention.name == "espnet-rnn":
        arguments.append("prior=unigrams")
    return f"`loss({', '.join(arguments)})`"


def table(header, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def page():
    """The whole page, every difference computed now."""
    parts = [HEAD]
    for title, members in FAMILIES.items():
        rows = [
            [c.source.partition(",")[0] or "(no library)", line(c), measured(c.name), c.notes or " "] for c in members
        ]
        parts.append(f"## {title}\n\n{table(['library', 'here', 'measured', 'to know'], rows)}\n")
    names = [[f"`{alias}`", f"`{name}`"] for alias, name in aliases.items()]
    parts.append(f"## Other spellings\n\n{table(['written', 'means'], names)}\n")
    reasons = [[f"`{name}`", why] for name, why in unexpressed.items()]
    parts.append(
        "## What no convention can say\n\nAsking for one of these names raises an error with the reason.\n\n"
        f"{table(['name', 'why'], reasons)}\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
