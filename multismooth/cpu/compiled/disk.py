"""Machine code on disk, used again only where everything that it was made from is the same.

Numba's own cache asks whether the file that defines a function has changed. A function may call, inline or overload
code of another file, and an upgrade of NumPy changes no file of ours; then Numba runs the old machine code. Numba also
keeps one index file per function. When two processes write that at once, the code of one can end up under the types of
the other.

Here the folder is named by a digest of all modules of the kernels and of the compilers, and a file holds one function
for one signature. Whatever goes wrong with the disk, the worst result is that code is compiled again.
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

PREFIX = "multismooth-"
FOLDERS_KEPT = 8  # the newest ones: those of other versions of Python, NumPy or Numba stay usable
DIGEST_BYTES = 32  # a file begins with the digest of the rest
CODE_ATTRIBUTES = [
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
COMPILER_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")

_modules: list[tuple[CodeType, str]] = []


def add_module(code):
    """Include a module in the digest, by the code that runs: its file may have changed since."""
    if not any(code is known for known, _ in _modules):
        _modules.append((code, hashlib.sha256(marshal.dumps(content(code), 2)).hexdigest()))


def content(code):
    """Everything that a code object does. It is the same in every process, and from source and bytecode."""
    return [getattr(code, f"co_{name}") for name in CODE_ATTRIBUTES] + [constant(value) for value in code.co_consts]


def constant(value):
    if isinstance(value, CodeType):
        return content(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def digest():
    """The digest of the kernels' modules, of what compiles them and of its settings. Numba's key has the processor."""
    versions = sys.version, numba.__version__, llvmlite.__version__, np.__version__
    settings = [getattr(numba.config, name, None) for name in COMPILER_SETTINGS]
    return hashlib.sha256(repr(([own for _, own in _modules], versions, settings)).encode()).hexdigest()[:32]


def cached_on_disk(dispatcher):
    """The same Numba function, its machine code kept on disk where a folder can be written to."""
    with suppress(RuntimeError, OSError):  # neither the package's folder nor the user's cache can be written to
        dispatcher._cache = DiskCache(dispatcher.py_func)
    return dispatcher


class DiskCache(FunctionCache):
    """Where a Numba function loads and saves its machine code, in the place that Numba itself would use."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = Files(self._cache_path, self._impl.filename_base)

    @property
    def cache_path(self):
        return self._cache_file.folder()

    def load_overload(self, sig, target_context):
        with suppress(Exception):  # a file that Numba cannot read counts as no file
            return super().load_overload(sig, target_context)

    def save_overload(self, sig, data):
        with suppress(Exception):  # a full or a read-only disk
            super().save_overload(sig, data)


class Files:
    """The files of one function, one for each key: a signature and a processor."""

    def __init__(self, place, name):
        self._place, self._name = place, name

    def folder(self):
        return os.path.join(self._place, PREFIX + digest())

    def _path(self, key):
        return os.path.join(self.folder(), f"{self._name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.nbc")

    def load(self, key):
        try:
            with open(self._path(key), "rb") as file:
                stored = file.read()
        except FileNotFoundError:
            return None
        check, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != check:  # the file was cut short, as when the machine went down
            return None
        stored_key, data = pickle.loads(content)
        return data if stored_key == key else None

    def save(self, key, data):
        """Write another file and rename it: nobody sees half a file, and of two writers either one is right."""
        content, path = dumps((key, data)), self._path(key)
        if not os.path.isdir(self.folder()):
            os.makedirs(self.folder(), exist_ok=True)
            self._remove_old_folders()
        temporary = f"{path}.{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def flush(self):
        shutil.rmtree(self.folder(), ignore_errors=True)

    def _remove_old_folders(self):
        """Remove all but the newest folders. A process that uses one of the others has its code in memory."""
        with os.scandir(self._place) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.startswith(PREFIX)]
        for _, path in sorted(found, reverse=True)[FOLDERS_KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
