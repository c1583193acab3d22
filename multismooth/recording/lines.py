"""The lines of a replay, and the function that they make."""

import re
from functools import lru_cache

NAME = re.compile(r"\bt\d+\b")


class Line:
    """A line of a replay. name: of the array that it makes. writes: of the one that it writes to. None: no array."""

    def __init__(self, source, name=None, writes=None):
        self.text, self.name, self.writes = source if name is None else f"{name} = {source}", name, writes
        self.always = name is None and writes is None


def arrays_in(source):
    """The names of a replay's arrays in a text."""
    return set(NAME.findall(source))


def written(arguments, paths, question):
    """The source of a replay with these arguments.

    paths: (lines, what is returned) for True and for False as the answer to the question, or once if there is none.
    question: (the name of what is asked for, how many lines come before).
    """
    lines, returned = paths[-1]
    needed, start = arrays_in(returned), 0 if question is None else question[1]
    body = [*_kept(lines[start:], needed), f"return {returned}"]
    if question is not None:
        (lines, returned), name = paths[0], question[0]
        also = arrays_in(returned)
        first = [*_kept(lines[start:], also), f"return {returned}"]
        needed |= also | {name}
        body = [*_kept(lines[:start], needed), f"if {name}:", *(f"    {line}" for line in first), *body]
    return f"def replay({', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in body)


def _kept(lines, needed):
    """The text of the lines that `needed` arrays need, and of those that always stay. It completes `needed`."""
    kept = []
    for line in reversed(lines):
        if line.always or line.name in needed or line.writes in needed:
            needed |= arrays_in(line.text)
            kept.append(line.text)
    return kept[::-1]


@lru_cache(256)
def compiled(source):
    """The code of a replay. Kinds of calls that differ in sizes alone differ in constants alone."""
    return compile(source, "<recording>", "exec")
