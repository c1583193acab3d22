"""The PyTorch backend: how tensors are made, read and evaluated for `multismooth.api.functions`."""

from operator import itemgetter
from types import MappingProxyType

import numpy as np
import torch

from multismooth import spec
from multismooth.api import argument_checks, containers
from multismooth.backend import Backend, summing, total
from multismooth.errors import complain
from multismooth.implementations import select
from multismooth.reduction import reduced_plan
from multismooth.torch import alternatives, autograd, compat, linear, operators
from multismooth.torch.choice import plan_and_kernel
from multismooth.torch.functions import TorchFunctions
from multismooth.torch.gpu import launch
from multismooth.torch.namespace import XP
from multismooth.torch.options import OPTIONS

KNOWN_TO_NUMPY = (torch.float32, torch.float64, torch.float16)


def torch_readable(value):
    """Lists and numbers unchanged, and other containers as arrays in a layout that PyTorch can read."""
    if isinstance(value, (list, tuple, int, float)) or hasattr(value, "__cuda_array_interface__"):
        return value
    if torch.compiler.is_compiling():
        return value
    value = np.asarray(value)
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    plain = value.flags.writeable and value.dtype.isnative and all(step >= 0 for step in value.strides)
    return value if plain else value.astype(value.dtype.newbyteorder("="), order="C")


def sum_over_group(total, group):
    from multismooth.torch import sharding  # torch.distributed takes 0.1 s, and not every build has it

    return sharding.summed(total, group)


def on_a_device(tensor):
    """None, for the values of a tensor that NumPy cannot see. They are not waited for."""
    if tensor.layout is not torch.strided or tensor.is_neg():
        raise TypeError("a tensor that the kernels cannot read")


class TorchBackend(Backend):
    name = "torch"
    xp = XP
    count_dtype = torch.float64
    options = OPTIONS
    types = MappingProxyType(
        {"Scores": "Tensor", "Labels": "Array", "Result": "Tensor", "Arrays": "Tensor", "Loss": "Tensor"}
    )

    def is_array(self, value):
        return isinstance(value, torch.Tensor)

    def array(self, value, like=None):
        """A value as a tensor; integers become int64, which indexing needs.

        Tensors stay on their device, and `check_device` refuses two devices. A pending negation is applied, because
        NumPy cannot read the memory of such a tensor.
        """
        if not isinstance(value, torch.Tensor):
            value = torch.as_tensor(torch_readable(value), device=None if like is None else like.device)
        value = value.resolve_neg()
        integer = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool)
        if not integer or value.dtype is torch.int64:
            return value
        labels = value.long()
        if value.dtype is torch.uint64:  # its upper half wraps to negative int64, and could become the ignored label
            labels = torch.where(labels < 0, torch.iinfo(torch.int64).max, labels)
        return labels

    def take(self, argument, value, like=None):
        if isinstance(value, torch.Tensor):
            if value.is_nested:
                raise containers.lossy(argument, containers.NESTED, containers.PAD)
            if value.layout is not torch.strided:
                raise containers.lossy(argument, f"a tensor of layout {value.layout}", containers.DENSE)
            if value.is_quantized:
                raise containers.lossy(argument, "a quantized tensor", containers.QUANTIZED)
            if compat.plain_tensor(value) or self.tracing():  # a compiler does not trace `__mro__` of a Parameter
                array = self.array(value, like)
                self.check_device(argument, array, like)
                return array
        return super().take(argument, value, like)

    def moved(self, array, like):
        return self.array(array, like).to(like.device)

    def check_device(self, argument, array, like):
        """Refuse tensors on two devices. A 0-d tensor on the CPU is allowed with any device, except as targets."""
        if like is None or array.device == like.device:
            return
        if array.ndim == 0 and array.device.type == "cpu" and argument != "targets":
            return
        raise complain(
            argument,
            f"a tensor on {like.device}, where the {'features' if argument == 'classifier' else 'logits'} are",
            f"one on {array.device}",
            f"Move it: {argument}.to({str(like.device)!r}).",
        )

    def nan_outside(self, limited, z):
        at_once = {}
        for name, (value, high) in limited.items():
            if value.is_cuda and compat.eligible(value, others=[value]) and launch.guards(value, z):
                at_once[name] = value, high
        others = {name: pair for name, pair in limited.items() if name not in at_once}
        return {**super().nan_outside(others, z), **(launch.guarded(at_once) if at_once else {})}

    def size(self, value):
        return value if isinstance(value, torch.SymInt) else super().size(value)

    def kind(self, array):
        if array.dtype.is_floating_point:
            # PyTorch has no arithmetic for floats of eight bits.
            return "floating" if array.dtype.itemsize > 1 else "other"
        return "boolean" if array.dtype is torch.bool else "other" if array.dtype.is_complex else "integer"

    def values(self, array, validate):
        if compat.transforming() or array.is_meta or (array.device.type != "cpu" and not validate):
            return None
        array = array.detach()
        if not compat.plain_tensor(array):  # under FakeTensorMode `detach` returns a fake tensor
            return None
        known = array.dtype in KNOWN_TO_NUMPY or not array.dtype.is_floating_point
        return (array if known else array.float()).numpy(force=True)

    def first_row(self, z, axis, validate=None):
        if z.numel() == 0:
            return None
        first = argument_checks.first_element(z.ndim, axis)
        if z.device.type != "cpu" or z.dtype not in KNOWN_TO_NUMPY:
            return self.values(z[first], validate)
        values = self.values(z, validate)
        return None if values is None else values[first]

    watched = staticmethod(compat.watched)

    def ordinary(self, problem):
        return all(compat.plain_tensor(x) for x in problem if isinstance(x, torch.Tensor))

    def view(self, array):
        return (torch.Tensor.numpy if array.is_cpu else on_a_device,)

    def row_view(self, z, axis):
        first = itemgetter(argument_checks.first_element(z.ndim, axis))
        if not z.is_cpu:
            return (on_a_device,)
        if z.dtype in KNOWN_TO_NUMPY:
            return torch.Tensor.detach, torch.Tensor.numpy, first
        return torch.Tensor.detach, first, torch.Tensor.float, torch.Tensor.numpy

    def tracing(self):
        return torch.compiler.is_compiling()

    blind = tracing

    def template(self, shape, dtype, like):
        return torch.zeros((), dtype=dtype or torch.get_default_dtype(), device=like.device).expand(shape)

    def loss(self, call, dtype=None):
        problem = call.problem
        if call.memo is not None or compat.eligible(problem.logits, others=[*problem][1:]):
            return autograd.loss(call, dtype)
        if self.tracing() and operators.supports(problem):
            return total(problem, call.settings, XP, operators.elements)
        self._record_spec()
        return super().loss(call)

    loss_again = staticmethod(autograd.loss_again)

    def sum_over(self, group, axis_name):
        return summing(self.name, group, axis_name, sum_over_group=sum_over_group)

    def alternative(self, call, alternative):
        if compat.eligible(call.problem.logits, others=[*call.problem, *alternative][1:]):
            return alternatives.loss(call.problem, call.settings, alternative)
        self._record_spec()
        return super().alternative(call, alternative)

    def loss_and_grad(self, call, out=None):
        z, settings = call.problem.logits, call.settings
        if out is not None and (not isinstance(out, torch.Tensor) or out.shape != z.shape or out.dtype != z.dtype):
            expected = f"a tensor of shape {tuple(z.shape)} and dtype {z.dtype}"
            got = f"{type(out).__name__} {tuple(getattr(out, 'shape', ()))} {getattr(out, 'dtype', '')}"
            raise complain("out", expected, got, "Make it with torch.empty_like(logits).")
        if out is not None:
            self.check_device("out", out, z)
        if call.memo is None and not compat.eligible(z):
            self._record_spec()
            return self._loss_and_grad_by_spec(call.problem, settings, out)
        with torch.no_grad():
            plan, kernel = plan_and_kernel(call)
            return kernel(z.detach(), plan, settings.axis, summed=settings.reduction != "none", out=out)

    def _record_spec(self):
        if not self.tracing():  # a compiler cannot read the context variable of `implementation`
            select("spec")

    def _loss_and_grad_by_spec(self, problem, settings, out):
        with torch.set_grad_enabled(
            compat.functorch_active()
        ):  # outside of torch.func no graph is needed, as for a kernel
            plan = reduced_plan(problem, settings, XP)
            loss, gradient = spec.losses_and_gradient(problem.logits, plan, settings.axis, XP)
            loss = loss if settings.reduction == "none" else loss.sum()
            return loss, gradient.to(problem.logits.dtype) if out is None else out.copy_(gradient)

    def linear_loss(self, hidden, classifier, bias, chunk_rows, call):
        arguments = hidden, classifier, bias, chunk_rows, call.problem, call.settings
        traced = operators.head_loss(*arguments) if self.tracing() else None
        return linear.loss(*arguments) if traced is None else traced

    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, call):
        return linear.loss_and_grad(hidden, classifier, bias, chunk_rows, call.problem, call.settings)

    def linear_terms(self, hidden, classifier, bias, chunk_rows, call):
        self._record_spec()
        return linear.terms(hidden, classifier, bias, chunk_rows, call.problem, call.settings)

    def smoothing_correction(self, hidden, classifier, bias, call):
        return linear.smoothing_correction(hidden, classifier, bias, call.problem, call.settings)


functions = TorchFunctions(TorchBackend())
