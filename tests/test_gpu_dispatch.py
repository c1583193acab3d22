"""A launch of a kind that was launched before calls Triton's launcher with what Triton itself would call it with.

No GPU is needed: a process without the interpreter compiles the kernels for sm_90, with a launcher that notes its
arguments. MULTISMOOTH_TRITONS names folders of other releases: see `test_gpu_compiled`.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # conftest would set 1
    sys.path.append(str(Path(__file__).parent / "support"))

import pytest
from requirements import need
from test_gpu_compiled import OTHER_TRITONS, Driver


class NotingDriver(Driver):
    """A driver whose launches are noted."""

    def __init__(self):
        self.utils, self.noted, self.functions = self, [], count(1)

    def get_device_properties(self, device):
        return {"max_shared_mem": 232_448}

    def load_binary(self, *binary):
        return next(self.functions), next(self.functions), 32, 0, 1024

    def unload_module(self, module):
        pass

    def launcher_cls(self, source, metadata):
        return lambda *arguments: self.noted.append(arguments)


def same(one, other):
    """Whether two launches are the same: identical objects, or equal numbers."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (type(one) is type(other) and isinstance(one, (int, float, bool, str)) and one == other)


def calls(ms, torch):
    """{name: a function without arguments that makes a loss and asks for its gradient}"""
    labels, weight, each = torch.arange(16) % 7, torch.rand(12) + 0.5, torch.rand(16)
    rows = torch.rand(16, 12).softmax(1)

    def step(dtype=torch.float32, function=ms.loss, upstream=None, shift=0, targets=labels, **settings):
        memory = torch.randn(16 * 12 + shift).to(dtype)

        def run():
            logits = memory[shift:].view(16, 12).requires_grad_()
            loss = function(logits, targets, **settings)
            torch.autograd.grad(loss, logits, torch.ones_like(loss) if upstream is None else upstream)

        return run

    return {
        "plain": step(),
        "not aligned": step(shift=1),
        "bfloat16": step(torch.bfloat16),
        "float16": step(torch.float16, upstream=torch.tensor(2.0)),
        "one by one": step(reduction="none", upstream=each),
        "a normalizer and a z-loss": step(normalizer=50.0, z_loss=0.1),
        "arrays": step(weight=weight, sample_weight=each, label_smoothing=each / 3, class_mask=weight > 0),
        "soft targets": step(targets=rows),
        "soft targets of another dtype, and arrays": step(
            torch.bfloat16,
            targets=rows,
            weight=weight,
            sample_weight=each,
            class_mask=weight > 0,
            upstream=0.5 * each[0],
        ),
        "a drop-in": step(function=ms.cross_entropy, weight=weight, label_smoothing=0.1),
    }


def watch():
    """{call: [whether it was launched directly, whether Triton's own launch is the same] of each launch}"""
    torch, driver = need("torch"), NotingDriver()
    need("triton.runtime").driver.set_active(driver)
    launches = need("launches")
    launches.as_on_a_gpu(pytest.MonkeyPatch(), watched=False)
    dispatch, ms = need("multismooth.torch.gpu.dispatch"), need("multismooth.torch")
    launched, by_triton, found, asked = dispatch.Launch.__call__, dispatch.Launch._by_triton, [], []

    def ask_triton(launch, *arguments):
        asked.append(launch)
        by_triton(launch, *arguments)

    def both_ways(launch, on, *given):
        asked.clear()
        launched(launch, on, *given)
        by_triton(launch, on, given, "again")
        one, other = (noted[:6] + noted[9:] for noted in driver.noted[-2:])  # without the hooks and what they are told
        found.append((not asked, same(one, other)))

    dispatch.Launch.__call__, dispatch.Launch._by_triton = both_ways, ask_triton
    answers = {}
    for name, run in calls(ms, torch).items():
        run()
        found.clear()
        run()
        answers[name] = list(found)
    holder = dispatch.runtime_settings()
    holder.launch_enter_hook.add(lambda metadata: None)
    found.clear()
    calls(ms, torch)["plain"]()
    answers["a profiler listens"] = list(found)
    return answers


# --- the tests -------------------------------------------------------------------------------------------------------


@cache
def answers(triton):
    need("torch")
    need("triton")
    with tempfile.TemporaryDirectory() as cache_dir:
        path = os.pathsep.join(filter(None, [triton, *sys.path]))
        variables = os.environ | {"TRITON_CACHE_DIR": cache_dir, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, __file__], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("triton", ["", *OTHER_TRITONS], ids=lambda folder: folder or "installed")
def test_a_second_launch_is_what_triton_s_own_would_be(triton):
    found = answers(triton)
    listened = found.pop("a profiler listens")
    for name, launches in found.items():
        assert len(launches) >= 3, name
        for direct, as_triton in launches:
            assert direct, name
            assert as_triton, name
    assert listened
    assert not any(direct for direct, _ in listened)


if __name__ == "__main__":
    print(json.dumps(watch()))
