"""Machine code on disk, found again only where everything that it was made from is the same.

Numba's own cache asks whether the file that defines a function has changed. What the function calls, inlines or is
overloaded with may stand in another file, and an upgrade of NumPy changes none; then the old machine code runs. Its
index of a function's types is one file, too, and of two processes that write it at once one can leave its code under
the other's type. Here a folder is named by a digest of every module of the kernels and of what compiled them, and a
file holds one function for one signature. Whatever is wrong with the disk, the worst is that code is compiled again.
"""

import hashlib
import marshal
import os
import pickle
import shutil
import sys
import uuid
from contextlib import suppress
from types import CodeType

import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

PREFIX, NEWEST = "multismooth-", 8  # folders beside each other: of other versions of Python, NumPy or Numba
SIGNED = 32  # bytes before what is stored: its own digest
SAYS = [
    "code",
    "exceptiontable",
    "flags",
    "argcount",
    "posonlyargcount",
    "kwonlyargcount",
    "names",
    "varnames",
    "freevars",
    "cellvars",
]
SHAPING = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")

_modules: list[tuple[CodeType, str]] = []


def includes(code):
    """From now on the digest is of this module, too: of the code that runs, whatever its file says by now."""
    if not any(code is known for known, _ in _modules):
        _modules.append((code, hashlib.sha256(marshal.dumps(said_by(code), 2)).hexdigest()))


def said_by(code):
    """All that a code object does, the same in every process and from source or bytecode."""
    return [getattr(code, f"co_{name}") for name in SAYS] + [constant(value) for value in code.co_consts]


def constant(value):
    if isinstance(value, CodeType):
        return said_by(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def digest():
    """Of the kernels' modules, of what compiles them, and how it was told to; the processor is in Numba's key."""
    versions = sys.version, numba.__version__, llvmlite.__version__, np.__version__
    told = [getattr(numba.config, name, None) for name in SHAPING]
    return hashlib.sha256(repr(([said for _, said in _modules], versions, told)).encode()).hexdigest()[:32]


def kept(dispatcher):
    """The same function of Numba's, its machine code kept on disk if there is a place for it."""
    with suppress(RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written to
        dispatcher._cache = Disk(dispatcher.py_func)
    return dispatcher


class Disk(FunctionCache):
    """What a function of Numba's asks for machine code, and gives it to. The place is where Numba would keep it."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = Files(self._cache_path, self._impl.filename_base)

    @property
    def cache_path(self):
        return self._cache_file.folder()

    def load_overload(self, sig, target_context):
        with suppress(Exception):  # a file that Numba cannot make sense of is no file
            return super().load_overload(sig, target_context)

    def save_overload(self, sig, data):
        with suppress(Exception):  # a full or a read-only disk
            super().save_overload(sig, data)


class Files:
    """Of one function, a file for each key: a signature and a processor."""

    def __init__(self, place, name):
        self._place, self._name = place, name

    def folder(self):
        return os.path.join(self._place, PREFIX + digest())

    def _path(self, key):
        return os.path.join(self.folder(), f"{self._name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.nbc")

    def load(self, key):
        try:
            with open(self._path(key), "rb") as file:
                signed = file.read()
        except FileNotFoundError:
            return None
        if hashlib.sha256(signed[SIGNED:]).digest() != signed[:SIGNED]:  # cut short when the machine went down
            return None
        known, data = pickle.loads(signed[SIGNED:])
        return data if known == key else None

    def save(self, key, data):
        """Written aside and then renamed: nobody sees half a file, and of two writers either is right."""
        content, path = dumps((key, data)), self._path(key)
        if not os.path.isdir(self.folder()):
            os.makedirs(self.folder(), exist_ok=True)
            self._clear()
        aside = f"{path}.{uuid.uuid4().hex}"
        try:
            with open(aside, "xb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise

    def flush(self):
        shutil.rmtree(self.folder(), ignore_errors=True)

    def _clear(self):
        """Remove all but the newest folders; who runs on one of the others has its code in memory."""
        with os.scandir(self._place) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.startswith(PREFIX)]
        for _, path in sorted(found, reverse=True)[NEWEST:]:
            shutil.rmtree(path, ignore_errors=True)
