"""Writes docs/wild.md: `PYTHONPATH=tests/support python tests/wild/table.py`, with PyTorch and JAX installed."""

from test_wild import PAGE, WILD, identified

HEAD = """# Losses in the wild

These losses stand in public code. Somebody wrote down what each of them is, and then asked `parity.identify`. They are
restated in a few lines in `tests/wild`, where a test asks again. "Refused" is honest: the tool says that it does not
know the loss. Wrong would be another name than that of the reader; there is none.

{right} of {number} are named, {refused} refused, 0 wrong.

| loss | where | what it is, by the reader | what `identify` says |
| --- | --- | --- | --- |
"""


def said(found):
    """The answer in a few words."""
    if not found:
        return found.family or "none that it knows: refused"
    first = found.readings[0]
    notes = [found.form.difference] if found.form.difference else []
    if found.asked["in"] in ("float16", "bfloat16"):
        notes.append(f"in about {found.asked['in']}")
    names = ", ".join(found.names[:3])
    text = f"{names}: ε = {first.label_smoothing:.6g}, {first.reduction}, ignores {first.ignore_index}"
    return "; ".join([text, *notes])


def main():
    rows, right, refused = [], 0, 0
    for wild in WILD:
        found = identified(wild)
        refused += not found and not found.family
        right += bool(found) or bool(found.family)
        cells = (f"`{wild}`", wild.source, wild.fn.__doc__.strip(), said(found))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n")
    PAGE.write_text(HEAD.format(right=right, number=len(WILD), refused=refused) + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
