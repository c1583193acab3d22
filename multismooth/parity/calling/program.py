"""Losses of any language: a program that reads one JSON problem a line and answers each with one JSON line.

    {"shape": [2, 3], "labels_shape": [2], "logits": [0.5, …], "labels": [0, 2], "dtype": "float64"}
    {"loss": 1.25, "gradient": [-0.4, …]}

Arrays are flat, in C order. `loss` is a number, or one per element. `gradient` is optional: that of the summed loss.
`{"error": "…"}` refuses a problem. NaN and the infinities are the texts "nan", "inf" and "-inf", both ways. With rows
of probabilities, `labels` has them, in the logits' shape. The program ends when its input does.
"""

import json
import math
import shlex
import subprocess
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread

import numpy as np

from multismooth.errors import complain

LONGEST_TEXT = 200  # of an answer that is shown


class Program:
    """fn(logits, targets) -> (loss, gradient) of a program, for `check`, `compare` and `identify`.

    command: the program and its arguments, as one text or as a list; it is run without a shell. timeout: seconds for
    one answer. A program that crashed or did not answer is started anew for the next problem.

    >>> import sys
    >>> from multismooth import parity
    >>> code = "import json; [print(json.dumps({'loss': 0.0}), flush=True) for line in iter(input, '')]"
    >>> parity.Program([sys.executable, "-c", code]).__name__.startswith("python")
    True
    """

    def __init__(self, command, timeout=10.0):
        self._process = self._lines = self._reader = None
        self.command = shlex.split(command) if isinstance(command, str) else [str(part) for part in command]
        if not self.command:
            raise complain("command", "a program with its arguments", "nothing", "For example './loss --mean'.")
        self.timeout = timeout
        self.__name__ = self.__qualname__ = self.command[0].rpartition("/")[2]

    def __call__(self, logits, targets):
        logits, targets = np.asarray(logits), np.asarray(targets)
        problem = {
            "shape": list(logits.shape),
            "labels_shape": list(targets.shape),
            "logits": [_as_json(x) for x in logits.astype(np.float64).ravel().tolist()],
            "labels": targets.ravel().tolist(),
            "dtype": str(logits.dtype),
        }
        answer = self._answer(json.dumps(problem))
        if "error" in answer:
            raise ValueError(str(answer["error"])[:LONGEST_TEXT])
        loss = self._numbers(answer, "loss", None)
        if answer.get("gradient") is None:
            return loss
        return loss, self._numbers(answer, "gradient", logits.shape)

    def close(self):
        """End the program."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):  # a pipe that is broken already
            process.stdin.close()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(1)

    __del__ = close

    def _answer(self, line):
        """The answer to a problem, as a dict."""
        if self._lines is not None and not self._lines.empty():
            self.close()  # it printed more than its answer: what comes next would answer another problem
        self._start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            text = self._lines.get(timeout=self.timeout)
        except Empty:
            self._process.kill()
            self.close()
            raise self._complaint(
                f"nothing in {self.timeout:g} s", "Flush after each line, or pass timeout=."
            ) from None
        except OSError:
            text = None
        if text is None:
            status = self._process.wait()
            self.close()
            raise self._complaint(f"an end with status {status}", "Answer {'error': …} to what you refuse.")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not {"loss", "error"} & answer.keys():
            self.close()
            got = f"{text.strip()[:LONGEST_TEXT]!r}"
            raise self._complaint(got, 'Print {"loss": …, "gradient": […]} and nothing else on stdout.')
        return answer

    def _start(self):
        if self._process is not None:
            return
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        try:
            self._process = subprocess.Popen(self.command, encoding="utf-8", errors="replace", **pipes)
        except OSError as error:
            remedy = "Build it, make it executable, and start its path with ./ or /."
            raise complain("command", "a program that can be started", str(error), remedy) from error
        self._lines = Queue()
        self._reader = Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()

    def _numbers(self, answer, name, shape):
        """An array of the answer; ValueError for what is none."""
        try:
            found = np.array(answer[name], dtype=np.float64)  # NumPy reads "nan" and "inf"
            return found if shape is None else found.reshape(shape)
        except (TypeError, ValueError) as error:
            expected = "a number, or one per element" if shape is None else f"{math.prod(shape)} numbers in a flat list"
            got = f"{str(answer[name])[:LONGEST_TEXT]}"
            raise complain(f"{self.__name__}: {name}", expected, got, "Rows are not nested.") from error

    def _complaint(self, got, remedy):
        return complain(self.__name__, "one JSON answer a line", got, remedy)


def _read(stream, lines):
    """Put every line into the queue, and None at the end."""
    with stream:
        for line in stream:
            if line.strip():
                lines.put(line)
    lines.put(None)


def _as_json(x):
    return x if math.isfinite(x) else str(x)
