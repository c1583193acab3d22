"""Loads the function that `package.module:function` or `path/to/file.py:function` names."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from difflib import get_close_matches
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

from multismooth.convention import Convention
from multismooth.errors import complain

GRAMMAR = "package.module:function or path/to/file.py:function"


def load(target, arguments=()):
    """The callable that a target names, with its keyword arguments bound; a class is instantiated with them.

    arguments: texts such as "name=value".
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise complain("target", GRAMMAR, repr(target), "For example torch.nn.functional:cross_entropy.")
    keywords = dict(map(_keyword, arguments))
    found = _module(place, target)
    for part in name.split("."):
        found = _attribute(found, part, place, name)
    if isinstance(found, type):
        found, keywords = _instance(found, keywords), {}
    if not callable(found):
        expected, remedy = "a function, a class or an object that can be called", "Name the loss itself."
        raise complain("target", expected, type(found).__name__, remedy)
    return partial(found, **keywords) if keywords else found


def load_convention(name):
    """A name in the registry as it is, or the Convention that package.module:name or file.py:name names."""
    place, _, path = name.rpartition(":")
    if not place:
        return name
    found = _module(place, name)
    for part in path.split("."):
        found = _attribute(found, part, place, path)
    if not isinstance(found, Convention):
        raise complain("convention", "a multismooth.Convention", type(found).__name__, f"{name} is something else.")
    return found


def _attribute(found, part, place, name):
    if not hasattr(found, part):
        names = [n for n in dir(found) if not n.startswith("__")]
        raise complain(
            "target", f"a name in {place}", f"{name!r}", _similar(part, names) or "Names are case-sensitive."
        )
    if isinstance(found, type) and _takes_self(inspect.getattr_static(found, part)):
        found = _instance(found, {})
    return getattr(found, part)


def _takes_self(function):
    """Whether a function in a class body is a method: then the class is instantiated first."""
    return inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "self"


def _instance(cls, keywords):
    try:
        return cls(**keywords)
    except Exception as error:
        call = f"{cls.__qualname__}({', '.join(f'{name}={value!r}' for name, value in keywords.items())})"
        remedy = "What it takes as it is made: --with name=value, or name a function that makes and calls it."
        raise complain("target", f"a class to call as {call}", f"{type(error).__name__}: {error}", remedy) from error


def _module(place, target):
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if place.endswith(".py"):
        return _file(Path(place).resolve(), place, here)
    try:
        return importlib.import_module(place)
    except ImportError as error:
        remedy = _similar_modules(place, error) or "For a file, write its path with .py."
        raise complain("target", GRAMMAR, repr(target), f"Importing {place} says: {error}. {remedy}") from error
    except (Exception, SystemExit) as error:
        raise complain("target", "a module that can be imported", _text(error), f"In {place}.") from error


def _file(path, place, here):
    """The module in a file. It can import the files beside it, as a script can."""
    if not path.is_file():
        similar = _similar(path.name, [neighbour.name for neighbour in path.parent.glob("*.py")])
        raise complain("target", "a file that exists", place, f"Paths start at {here}. {similar}".rstrip())
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look up their module there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise complain("target", "a file that runs", _text(error), f"In {place}.") from error
    finally:
        sys.path.remove(str(path.parent))
        sys.path.append(str(path.parent))  # for imports in its functions; last, because a torch.py may be there
    return module


def _module_name(path):
    """The file's stem, and a longer name where the stem is another module's name, such as torch."""
    name = path.stem.replace(".", "_")
    while _origin(name) not in (None, str(path)):
        name += "_"
    return name


def _origin(name):
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) or "no file"
    return getattr(PathFinder.find_spec(name), "origin", None)


def _similar_modules(place, error):
    """Modules with almost the missing name, if the target itself is missing and not a module that it imports."""
    if not error.name or not f"{place}.".startswith(f"{error.name}."):
        return ""
    parent, _, last = error.name.rpartition(".")
    where = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    similar = _similar(last, [module.name for module in pkgutil.iter_modules(where)])
    return f"{similar} (in {parent})" if similar and parent else similar


def _similar(word, names):
    """A question with the names that are most similar to a word; "" if there are none."""
    similar = get_close_matches(word, names, n=3)
    return f"Did you mean {', '.join(similar)}?" if similar else ""


def _text(error):
    return f"{type(error).__name__}: {error}"


def _keyword(text):
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise complain("--with", "name=value", repr(text), "For example --with label_smoothing=0.1.")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
