"""For the documentation's build: doctests in docstrings become fenced code, whichever section they stand in, and the
keywords of the public functions are written out, as `help` shows them."""

import os
import re
from pkgutil import resolve_name

import griffe

from multismooth.api.options import signature_of

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported

EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def fenced(match):
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group(0)}\n{indent}```"


class FencedExamples(griffe.Extension):
    """Wraps each run of `>>>` lines, with its output, in a fence."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


class WrittenOutKeywords(griffe.Extension):
    """Shows the keywords of `**options: Unpack[LossOptions]`, with their types and defaults."""

    def on_function(self, *, func, **_):
        last = next(reversed([*func.parameters]), None)
        if last is None or "Unpack[" not in str(last.annotation):
            return
        module = func.module.path
        function = resolve_name(f"{module}:{func.path.removeprefix(module + '.')}")
        before = [parameter for parameter in func.parameters if parameter is not last]
        written = signature_of(function).parameters
        func.parameters = griffe.Parameters(
            *before, *(keyword(p) for name, p in written.items() if name not in func.parameters)
        )


def keyword(parameter):
    return griffe.Parameter(
        parameter.name,
        annotation=parameter.annotation,
        kind=griffe.ParameterKind.keyword_only,
        default=repr(parameter.default),
    )
