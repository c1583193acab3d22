"""The implementations under test: for each, how arrays go in, how results come back, how its autodiff is asked."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from requirements import interpreted, need

import multismooth
from multismooth.parity.doctor import jax_x64

# `tox run` sets XLA_FLAGS with which XLA compiles twice as fast. These are XLA's own values of the same flags.
_DEFAULTS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
XLA_DEFAULTS = _DEFAULTS if os.environ.get("XLA_FLAGS") else None


@dataclass(frozen=True)
class Question:
    """What an implementation is asked for: a public function's result, or its value and gradients by autodiff.

    wrt: the numbers of the arrays that it is differentiated with respect to.
    """

    function: str
    wrt: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """One implementation. `call`, `value_and_grad` and `ask` take and return NumPy arrays (and Python values).

    framework, module: what must be installed, and the package's module under test.
    settings, heads: how many random settings the loss and the linear loss get: compiling costs time.
    autodiff_every: its autodiff is asked for each so-manieth structure (0: it has none).
    out: whether `out=` exists. slow: each call compiles, so only the core is run. narrow: its half precisions.
    computes: its widest dtype. One that computes in float32 gets float64 problems cast, and runs the core alone, to the
    rounding of the largest logit.
    A CPU tensor shares its memory with the NumPy array that it is made from, so writing to an input shows.
    """

    name: str
    framework: str
    module: str
    device: str = "cpu"
    settings: int = 2000
    heads: int = 240
    autodiff_every: int = 1
    out: bool = False
    slow: bool = False
    narrow: tuple[str, ...] = ("bfloat16", "float16")
    kernels: tuple[str, ...] = ()
    computes: str = "float64"

    def functions(self):
        need(self.framework)
        if "numba" in self.kernels:
            need("numba")
        return import_module(self.module)

    def forced(self):
        """Within, only the implementations of this adapter may run."""
        return multismooth.implementation(*self.kernels)

    def call(self, function, *arrays, **settings):
        """The result of one public function, as nested tuples of NumPy arrays (narrow floats keep their dtype)."""
        raise NotImplementedError

    def dtype(self, name):
        """The framework's own name of a dtype."""
        return name

    def value_and_grad(self, function, *arrays, wrt=(0,), cotangent=None, **settings):
        """(value, gradients) by the framework's own autodiff, with respect to the arrays numbered `wrt`."""
        raise NotImplementedError

    def ask(self, questions, *arrays, cotangent=None, **settings):
        """The answers to several questions about the same arrays. A compiler gets these as one program."""
        return [
            self.call(question.function, *arrays, **settings)
            if question.wrt is None
            else self.value_and_grad(question.function, *arrays, wrt=question.wrt, cotangent=cotangent, **settings)
            for question in questions
        ]


class NumpyAdapter(Adapter):
    def array(self, value):
        wide = isinstance(value, np.ndarray) and value.dtype == np.float64
        return value.astype(self.computes, copy=False) if wide else value

    def call(self, function, *arrays, **settings):
        call = getattr(self.functions(), function)
        with self.forced():
            return call(*map(self.array, arrays), **{name: self.array(value) for name, value in settings.items()})


class TorchAdapter(Adapter):
    def array(self, value):
        torch = need("torch")
        if isinstance(value, np.ndarray | np.generic):
            if str(value.dtype) == "bfloat16":
                return torch.from_numpy(value.astype(np.float32)).to(self.device, torch.bfloat16)
            return torch.from_numpy(np.require(value, requirements="W")).to(self.device)
        return value

    def back(self, result):
        torch = need("torch")

        if isinstance(result, tuple):
            return tuple(self.back(part) for part in result)
        if isinstance(result, torch.Tensor):
            result = result.detach().cpu()
            return result.float().numpy().astype(bfloat16()) if result.dtype == torch.bfloat16 else result.numpy()
        return result

    def dtype(self, name):
        return getattr(need(self.framework), name)

    def function(self, name):
        return getattr(self.functions(), name)

    def converted(self, arrays, settings):
        return [self.array(a) for a in arrays], {name: self.array(value) for name, value in settings.items()}

    def call(self, function, *arrays, **settings):
        call = self.function(function)
        arrays, settings = self.converted(arrays, settings)
        with self.forced():
            return self.back(call(*arrays, **settings))

    def value_and_grad(self, function, *arrays, wrt=(0,), cotangent=None, **settings):
        torch = need("torch")

        call = self.function(function)
        arrays, settings = self.converted(arrays, settings)
        leaves = [arrays[i].requires_grad_() for i in wrt]
        with self.forced():
            value = call(*arrays, **settings)
            grads = torch.autograd.grad(value, leaves, None if cotangent is None else self.array(cotangent))
        return self.back(value), self.back(grads)


class InterpretedTorchAdapter(TorchAdapter):
    def functions(self):
        interpreted()
        return super().functions()

    @contextmanager
    def forced(self):
        with super().forced() as ran, np.errstate(all="ignore"):  # the interpreter computes in NumPy, which complains
            yield ran


class CompiledTorchAdapter(TorchAdapter):
    def forced(self):
        return nullcontext()  # a compiler cannot look at it

    def function(self, name):
        torch = need("torch")

        torch._dynamo.reset()
        return torch.compile(super().function(name), backend="aot_eager", fullgraph=True)


class JaxAdapter(Adapter):
    def dtype(self, name):
        return need("jax.numpy").dtype(name)

    def scope(self, arrays):
        """64-bit JAX exactly where the problem is in float64 (or is labels alone); and the device."""
        jax = need("jax")

        dtypes = {str(a.dtype) for a in arrays if isinstance(a, np.ndarray)}
        wide = "float64" in dtypes or not dtypes & {"float32", "float16", "bfloat16"}
        return jax_x64(wide), jax.default_device(jax.devices(self.device)[0])

    def array(self, value):
        """On the device. `jax.numpy.asarray` would compile a program for each shape and dtype, in 14 ms."""
        return need("jax").device_put(value) if isinstance(value, np.ndarray) else value

    def run(self, compute, arrays, settings):
        jax = need("jax")

        x64, device = self.scope(arrays)
        with x64, device:
            arrays = [self.array(a) for a in arrays]
            settings = {name: self.array(value) for name, value in settings.items()}
            result = compute(*arrays, **settings)
            return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, result)

    def call(self, function, *arrays, **settings):
        return self.run(self.asked(Question(function)), arrays, settings)

    def value_and_grad(self, function, *arrays, wrt=(0,), cotangent=None, **settings):
        return self.run(self.asked(Question(function, tuple(wrt)), cotangent), arrays, settings)

    def asked(self, question, cotangent=None):
        """The function of JAX arrays whose result is the answer."""
        call = getattr(self.functions(), question.function)

        def value_and_grad(*arrays, **settings):
            def scalar(*arrays):
                value = call(*arrays, **settings)
                return (value if cotangent is None else (value * cotangent).sum()), value

            (_, value), grads = need("jax").value_and_grad(scalar, argnums=question.wrt, has_aux=True)(*arrays)
            return value, grads

        return call if question.wrt is None else value_and_grad


class JitJaxAdapter(JaxAdapter):
    """Everything that may be traced is traced: arrays, and label_smoothing, z_loss and logit_softcap even as numbers.

    XLA optimises as by default, whatever XLA_FLAGS say. It takes four times as long then, so what is asked together is
    one program.
    """

    def call(self, function, *arrays, **settings):
        return self.ask([Question(function)], *arrays, **settings)[0]

    def value_and_grad(self, function, *arrays, wrt=(0,), cotangent=None, **settings):
        return self.ask([Question(function, tuple(wrt))], *arrays, cotangent=cotangent, **settings)[0]

    def ask(self, questions, *arrays, cotangent=None, **settings):
        jax = need("jax")

        def compute(*arrays, **named):
            named |= {f"array {k}": array for k, array in enumerate(arrays)}
            numbers = "label_smoothing", "z_loss", "logit_softcap"
            traced = {name: value for name, value in named.items() if name in numbers or isinstance(value, jax.Array)}
            fixed = tuple((name, value) for name, value in named.items() if name not in traced)
            return _program()(self, tuple(questions), fixed, traced)

        return self.run(compute, arrays, settings | {"cotangent": cotangent})


@cache
def _program():
    """(JitJaxAdapter, questions, what is not traced, what is traced) → answers. Each structure is compiled once."""

    def answers(adapter, questions, fixed, traced):
        settings = dict(fixed) | traced
        arrays = [settings.pop(f"array {k}") for k in range(sum(name.startswith("array ") for name in settings))]
        cotangent = settings.pop("cotangent")
        return [adapter.asked(question, cotangent)(*arrays, **settings) for question in questions]

    return need("jax").jit(answers, static_argnums=(0, 1, 2), compiler_options=XLA_DEFAULTS)


def bfloat16():
    """NumPy's bfloat16 (JAX brings it)."""
    return need("ml_dtypes").bfloat16


NUMPY = NumpyAdapter("numpy", "numpy", "multismooth.numpy", autodiff_every=0, out=True, narrow=("float16",))
TORCH = TorchAdapter("torch", "torch", "multismooth.torch", out=True)
JAX = JaxAdapter("jax", "jax", "multismooth.jax", settings=1000, heads=12, autodiff_every=4)
REST = ("whole", "spec")  # for empty batches, and for what needs more than a first derivative
NUMPY_SPEC = replace(NUMPY, name="numpy-spec", kernels=("spec",), settings=500, heads=60)
NUMPY_CHUNKED = replace(NUMPY, name="numpy-chunked", kernels=("chunked", "spec"))
NUMPY_FLOAT32 = replace(NUMPY, name="numpy-float32", computes="float32", settings=500, heads=60, out=False)
NUMPY_NUMBA = replace(NUMPY, name="numpy-numba", kernels=("numba", "chunked", "spec"))
NUMPY_FUSED = replace(NUMPY, name="numpy-fused", kernels=("fused", "spec"), settings=500, heads=60)
TORCH_FUSED = replace(TORCH, name="torch-fused", kernels=("fused", "spec"), settings=500, heads=60)
TORCH_WHOLE = replace(TORCH, name="torch-whole", kernels=REST, settings=500, heads=60)
TORCH_CHUNKED = replace(TORCH, name="torch-chunked", kernels=("chunked", *REST))
TORCH_NUMBA = replace(TORCH, name="torch-numba", kernels=("numba", "chunked", *REST))
TORCH_TRITON = InterpretedTorchAdapter(
    "torch-triton", "torch", "multismooth.torch", out=True, kernels=("triton", *REST), settings=250, heads=25,
    narrow=("float16",),  # the interpreter truncates to bfloat16: see test_gpu
)  # fmt: skip
COMPILED = CompiledTorchAdapter("torch-compile", "torch", "multismooth.torch", settings=10, heads=3, slow=True)
JIT = JitJaxAdapter("jax-jit", "jax", "multismooth.jax", settings=40, heads=4, autodiff_every=2, slow=True)
TORCH_CUDA = TorchAdapter("torch-cuda", "torch", "multismooth.torch", device="cuda", out=True)
JAX_CUDA = JaxAdapter("jax-cuda", "jax", "multismooth.jax", device="cuda", settings=200, heads=4, autodiff_every=4)

FORCED = (
    *(NUMPY_SPEC, NUMPY_FUSED, NUMPY_CHUNKED, NUMPY_NUMBA),
    *(TORCH_FUSED, TORCH_WHOLE, TORCH_CHUNKED, TORCH_NUMBA, TORCH_TRITON),
)
ADAPTERS = (NUMPY, TORCH, JAX, *FORCED, COMPILED, JIT, TORCH_CUDA, JAX_CUDA)


def marks(adapter):
    """The marks of a test of this adapter."""
    return [pytest.mark.cuda(framework=adapter.framework)] if adapter.device == "cuda" else []


def suites(namespace, choose):
    """One test class per adapter in a module's namespace, made from the base class that `choose` names for it."""
    for adapter in (*ADAPTERS, NUMPY_FLOAT32):
        base = choose(adapter)
        name = "Test" + "".join(word.capitalize() for word in adapter.name.split("-"))
        namespace[name] = type(
            name, (base,), {"adapter": adapter, "pytestmark": marks(adapter), "__module__": base.__module__}
        )
