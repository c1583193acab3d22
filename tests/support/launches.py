"""How many kernels a call would launch on a GPU, without one: PyTorch's own operations and Triton's launches."""

import sys
from types import SimpleNamespace

from requirements import need

torch = need("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 torch first

# Operations that launch nothing: they make a view, or memory whose values nobody has written yet.
FREE = {
    *("view", "_unsafe_view", "expand", "detach", "alias", "unsqueeze", "squeeze", "permute", "select", "slice"),
    *("empty", "empty_like", "empty_strided", "new_empty", "as_strided", "t", "transpose", "unbind", "split"),
    *("_reshape_alias", "lift_fresh", "is_same_size", "promote_types"),
}


class Launches(TorchDispatchMode):
    """Counts them while it is entered: `torch` has the names of PyTorch's operations, `triton` those of our kernels."""

    def __init__(self):
        super().__init__()
        self.torch, self.triton, self.inside = [], [], False

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket.__name__
        if not self.inside and name not in FREE:
            self.torch.append(name)
        return operation(*arguments, **(options or {}))

    def __len__(self):
        return len(self.torch) + len(self.triton)

    def watching(self, kernels):
        """The module of the kernels, with every launch noted. What the interpreter does inside one does not count."""

        def grid(name):
            def launch(*arguments, **options):
                self.triton.append(name)
                self.inside = True
                try:
                    getattr(kernels, name)[grid.of](*arguments, **options)
                finally:
                    self.inside = False

            return launch

        class Watched:
            def __init__(self, name):
                self.name = name

            def __getitem__(self, size):
                grid.of = size
                return grid(self.name)

        names = set(kernels.__all__) - {"tl"}
        return SimpleNamespace(tl=kernels.tl, **{name: Watched(name) for name in names})


def as_on_a_gpu(monkeypatch, watched=True):
    """Launches, after a CPU has been made to look like a GPU: nobody reads a tensor's values, Triton is chosen.

    watched: the launches of kernels are counted.
    """
    choice = need("multismooth.torch.gpu.choice")
    backend = need("multismooth.torch.backend")
    launches, kernels = Launches(), choice.compiled()
    if watched:
        counted = launches.watching(kernels)
        monkeypatch.setattr(choice, "compiled", lambda: counted)
    monkeypatch.setattr(choice, "works_on", lambda place: True)
    monkeypatch.setattr(choice, "device", lambda tensor: True)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "") == "multismooth.torch.gpu.launch":
            monkeypatch.setattr(module, "device", lambda tensor: True)
    for cache in (backend.functions._call, backend.functions._loss):  # what is known of calls on a CPU is of no use
        monkeypatch.setattr(cache, "_kinds", {})
    monkeypatch.setattr(need("multismooth.torch.originals"), "KINDS", {})
    monkeypatch.setattr(backend.TorchBackend, "values", lambda *arguments: None)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    return launches
