"""For the documentation's build: the doctests in docstrings become fenced code, whichever section they stand in."""

import re

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def fenced(match):
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group(0)}\n{indent}```"


class FencedExamples(griffe.Extension):
    """Wraps each run of `>>>` lines, with its output, in a fence."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)
