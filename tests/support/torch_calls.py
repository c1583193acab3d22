"""What the tests of PyTorch's drop-ins and layers share: tensors, copies, and how results are compared."""

import copy
import pickle

try:
    import torch
except ImportError:  # the tests that need it are skipped
    torch = None

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape, classes=5, ignored=None):
    """0, 1, 2, …, the second one ignored where that is wanted."""
    found = torch.arange(torch.Size(shape).numel()).reshape(shape) % classes
    if ignored is not None:
        found.view(-1)[1] = ignored
    return found


def close(found, expected, rtol=1e-5, atol=1e-6):
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


def like(found, expected):
    """The same tensors but for their numbers."""
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
