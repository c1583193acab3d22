"""How many threads kernels use: one, as the tests are run, or another number for a while."""

import os
import sys
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def thread_count(number):
    """Within, NumPy's kernels, Numba's and PyTorch use so many threads."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    with patch.dict(os.environ, {"OMP_NUM_THREADS": str(number)}):
        if torch:
            torch.set_num_threads(number)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
