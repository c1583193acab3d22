"""From `package.module:function` or `path/to/file.py:function` to the function."""

import ast
import importlib
import importlib.util
import sys
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from multismooth.errors import complain

GRAMMAR = "package.module:function or path/to/file.py:function"


def load(target, given=()):
    """The callable that a target names, with `given` ("name=value") bound to it; a class is called for its object."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise complain("target", GRAMMAR, repr(target), "For example torch.nn.functional:cross_entropy.")
    found = _module(place, target)
    for part in name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, [n for n in dir(found) if not n.startswith("__")], n=3)
            hint = f"Did you mean {', '.join(near)}?" if near else "Names are case-sensitive."
            raise complain("target", f"a name in {place}", f"{name!r}", hint)
        found = getattr(found, part)
    found = found() if isinstance(found, type) else found
    if not callable(found):
        raise complain("target", "a function, a class or an object that can be called", type(found).__name__, "")
    keywords = dict(map(_keyword, given))
    return partial(found, **keywords) if keywords else found


def _module(place, target):
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            remedy = f"Importing {place} says: {error}. For a file, write its path with .py."
            raise complain("target", GRAMMAR, repr(target), remedy) from error
    path = Path(place).resolve()
    if not path.is_file():
        raise complain("target", "a file that exists", str(place), f"Paths start at {here}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise complain("target", "a file that runs", f"{type(error).__name__}: {error}", f"In {place}.") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _keyword(text):
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise complain("--with", "name=value", repr(text), "For example --with label_smoothing=0.1.")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
