"""Runs a function on several processes that talk by gloo, and returns what each of them returned.

The processes are forks of one that has imported PyTorch, because the import takes longer than most cases. Run it in a
process of its own (`programs` makes one): a fork of one that has started threads may hang.
"""

import os
import pickle
import sys
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # DTensors need it, and each fork would import it
import torch.distributed as dist

TIMEOUT = 20  # seconds that a rank waits for the others


def spawn(function, world, timeout=TIMEOUT):
    """The results of function(rank), by rank. A rank that has raised or died gives an Exception."""
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        children = {}
        for rank in range(world):
            child = os.fork()
            if child == 0:
                _rank(function, rank, world, folder, timeout)
            children[rank] = child
        for child in children.values():
            os.waitpid(child, 0)
        return [_read(Path(folder) / f"result{rank}") for rank in range(world)]


def _rank(function, rank, world, folder, timeout):
    """The life of a child. It ends here, without the clean-up of the parent that it is a copy of."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=timeout),
        )
        result = function(rank)
    except BaseException as error:  # the parent shows it
        result = RuntimeError(f"rank {rank}: {error!r}\n{traceback.format_exc()}")
    try:
        (Path(folder) / f"result{rank}").write_bytes(pickle.dumps(result))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _read(path):
    return pickle.loads(path.read_bytes()) if path.exists() else RuntimeError(f"{path.name}: the rank died")
