"""The host's time of a call on a GPU, without a GPU: what Python, PyTorch and Triton do until the kernels are launched.

    python benchmarks/gpu_host.py [--shape 256x10] [--rounds 4000] [--calls plain,drop-in] [--profile plain]

CPU tensors pass for a GPU's. Triton compiles its kernels for an H100 or H200 (sm_90), and its own launcher reads the
arguments and calls a libcuda that does nothing, which gcc makes first. So all of a launch is timed but the driver. A
call is loss and backward. The base is `F.cross_entropy` with label_smoothing=0.1 on the CPU. It launches nothing, but
its time includes the arithmetic of its twenty operations on so few logits.

In each round every call runs once, in a new random order. A time is the median over the rounds, a ratio that of two
medians. Nothing here says how long a GPU takes.
"""

import argparse
import cProfile
import ctypes
import json
import os
import pstats
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # Triton reads it when it is imported

import torch
import torch.nn.functional as F

# Every function of libcuda that Triton 3.3 to 3.9 calls, and numbers that pass for an H200's.
LIBCUDA = """
#include <stddef.h>
#include <string.h>
typedef int R;
R cuInit(unsigned f) { return 0; }
R cuDriverGetVersion(int *v) { *v = 12080; return 0; }
R cuCtxGetCurrent(void **c) { *c = (void *)1; return 0; }
R cuCtxSetCurrent(void *c) { return 0; }
R cuCtxGetDevice(int *d) { *d = 0; return 0; }
R cuCtxGetLimit(size_t *v, int l) { *v = 0; return 0; }
R cuCtxSetLimit(int l, size_t v) { return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuDeviceGetCount(int *n) { *n = 1; return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = 227 * 1024; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
R cuModuleLoadData(void **m, const void *i) { *m = (void *)1; return 0; }
R cuModuleUnload(void *m) { return 0; }
R cuModuleGetFunction(void **f, void *m, const char *n) { *f = (void *)1; return 0; }
R cuFuncGetAttribute(int *v, int a, void *f) { *v = a == 0 ? 1024 : 0; return 0; }
R cuFuncSetAttribute(void *f, int a, int v) { return 0; }
R cuFuncSetCacheConfig(void *f, int c) { return 0; }
R cuGetErrorString(int e, const char **s) { *s = "none"; return 0; }
R cuPointerGetAttribute(void *v, int a, unsigned long long p) { memcpy(v, &p, sizeof p); return 0; }
R cuPointerGetAttributes(unsigned n, int *a, void **v, unsigned long long p) { memcpy(v[0], &p, sizeof p); return 0; }
R cuStreamIsCapturing(void *s, int *v) { *v = 0; return 0; }
R cuOccupancyMaxActiveClusters(int *n, void *f, const void *c) { *n = 1; return 0; }
R cuLaunchKernel(void) { return 0; }
R cuLaunchKernelEx(const void *c, void *f, void **p, void **e) { return 0; }
R cuTensorMapEncodeTiled(void) { return 0; }
R cuTensorMapEncodeIm2col(void) { return 0; }
"""


def pretend(folder):
    """Let Triton and this library take the CPU for a GPU. `folder` keeps the libcuda that does nothing."""
    source, library = Path(folder, "libcuda.c"), Path(folder, "libcuda.so.1")
    source.write_text(LIBCUDA)
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    Path(folder, "libcuda.so").symlink_to(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = folder
    os.environ["TRITON_CACHE_DIR"] = str(Path(folder, "cache"))
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
    from triton.runtime import driver

    class Driver(CudaDriver):
        def __init__(self):
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
            self.get_current_device, self.get_current_stream = (lambda: 0), (lambda device: 0)

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

    driver.set_active(Driver())
    from multismooth.torch import backend
    from multismooth.torch.gpu import choice, launch

    for module in (choice, launch):
        module.device = lambda tensor: True
    choice.works_on = lambda place: True
    backend.TorchBackend.values = lambda *arguments: None
    torch.Tensor.is_cpu, torch.Tensor.is_cuda = False, True


def calls(rows, classes):
    """{name: a function without arguments, which makes a loss and asks for its gradient}"""
    import multismooth.torch as ms

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    weight, each = torch.rand(classes, generator=generator) + 0.5, torch.rand(rows, generator=generator)
    soft = torch.rand(rows, classes, generator=generator).softmax(1)

    def step(function, dtype=torch.float32, targets=labels, **settings):
        logits = torch.randn(rows, classes, generator=generator).to(dtype).requires_grad_()

        def run():
            torch.autograd.grad(function(logits, targets, label_smoothing=0.1, **settings), logits)

        return run

    return {
        "F.cross_entropy": step(F.cross_entropy),
        "F.cross_entropy, class weights": step(F.cross_entropy, weight=weight),
        "F.cross_entropy, soft targets": step(F.cross_entropy, targets=soft),
        "plain": step(ms.loss),
        "plain, bfloat16": step(ms.loss, torch.bfloat16),
        "plain, float16": step(ms.loss, torch.float16),
        "class weights": step(ms.loss, weight=weight),
        "sample weights": step(ms.loss, sample_weight=each),
        "soft targets": step(ms.loss, targets=soft),
        "drop-in": step(ms.cross_entropy),
        "drop-in, class weights": step(ms.cross_entropy, weight=weight),
        "drop-in, soft targets": step(ms.cross_entropy, targets=soft),
    }


def medians(runs, rounds):
    """{name: the median µs of a call}, all in turn within a round."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name in random.sample(list(runs), len(runs)):
            start = time.perf_counter_ns()
            runs[name]()
            times[name].append(time.perf_counter_ns() - start)
    return {name: statistics.median(found) / 1e3 for name, found in times.items()}


def main(arguments=None):
    one = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one.add_argument("--shape", default="256x10", help="rows x classes")
    one.add_argument("--rounds", type=int, default=2000)
    one.add_argument("--calls", help="some of the calls, by name; all by default")
    one.add_argument("--profile", help="the call whose Python functions are listed by their time")
    one.add_argument("--json", action="store_true", help="print the medians as JSON")
    options = one.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pretend(folder)
        runs = calls(*map(int, options.shape.split("x")))
        if options.calls:
            runs = {name: run for name, run in runs.items() if name in ("F.cross_entropy", *options.calls.split(","))}
        for run in runs.values():
            for _ in range(20):
                run()
        if options.profile:
            profile(runs[options.profile], options.rounds)
            return
        found = medians(runs, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    for name, microseconds in found.items():
        print(f"{name:32} {microseconds:7.1f} µs   {microseconds / found['F.cross_entropy']:5.2f}")


def profile(run, rounds):
    watch = cProfile.Profile()
    watch.enable()
    for _ in range(rounds):
        run()
    watch.disable()
    pstats.Stats(watch, stream=sys.stdout).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
