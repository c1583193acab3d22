"""How PyTorch tensors are made, looked at and evaluated for `multismooth.api.functions`."""

import numpy as np
import torch

from multismooth import spec
from multismooth.api import containers
from multismooth.api.functions import Functions
from multismooth.backend import Backend, total
from multismooth.errors import complain
from multismooth.implementations import select
from multismooth.reduction import reduced_plan
from multismooth.torch import autograd, compat, linear, operators
from multismooth.torch.choice import plan_and_kernel
from multismooth.torch.namespace import XP

KNOWN_TO_NUMPY = (torch.float32, torch.float64, torch.float16)


def readable(value):
    """What PyTorch can read: lists and numbers as they are, other containers as arrays in a layout that it knows."""
    if isinstance(value, (list, tuple, int, float)) or hasattr(value, "__cuda_array_interface__"):
        return value
    if torch.compiler.is_compiling():
        return value
    value = np.asarray(value)
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    plain = value.flags.writeable and value.dtype.isnative and all(step >= 0 for step in value.strides)
    return value if plain else value.astype(value.dtype.newbyteorder("="), order="C")


def first_element(ndim, axis):
    """The index of the first element's logits."""
    return tuple(slice(None) if k == axis else 0 for k in range(ndim))


class TorchBackend(Backend):
    name = "torch"
    xp = XP

    def is_array(self, value):
        return isinstance(value, torch.Tensor)

    def array(self, value, like=None):
        """Tensors stay on their device (`meets` refuses to mix), and a pending minus sign is carried out, for NumPy to
        see their memory; other integers become int64, to index with."""
        if not isinstance(value, torch.Tensor):
            value = torch.as_tensor(readable(value), device=None if like is None else like.device)
        value = value.resolve_neg()
        integer = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool)
        if not integer or value.dtype is torch.int64:
            return value
        labels = value.long()
        if value.dtype is torch.uint64:  # of which half is negative there: what names no class must not wrap to one
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
            if compat.plain_tensor(value) or self.tracing():  # a compiler does not read a Parameter's ancestors
                array = self.array(value, like)
                self.meets(argument, array, like)
                return array
        return super().take(argument, value, like)

    def meets(self, argument, array, like):
        """One device for all, but for plain numbers, which a CPU holds for any."""
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

    def size(self, value):
        return value if isinstance(value, torch.SymInt) else super().size(value)

    def kind(self, array):
        if array.dtype.is_floating_point:
            return "floating" if array.itemsize > 1 else "other"  # with eight bits there is no arithmetic
        return "boolean" if array.dtype is torch.bool else "other" if array.dtype.is_complex else "integer"

    def values(self, array, validate):
        if compat.transforming() or array.is_meta or (array.device.type != "cpu" and not validate):
            return None
        array = array.detach()
        if not compat.plain_tensor(array):  # a mode makes fake tensors of plain ones too
            return None
        known = array.dtype in KNOWN_TO_NUMPY or not array.dtype.is_floating_point
        return (array if known else array.float()).numpy(force=True)

    def first_row(self, z, axis, validate=None):
        if z.numel() == 0:
            return None
        first = first_element(z.ndim, axis)
        if z.device.type != "cpu" or z.dtype not in KNOWN_TO_NUMPY:
            return self.values(z[first], validate)
        values = self.values(z, validate)
        return None if values is None else values[first]

    watched = staticmethod(compat.watched)

    def ordinary(self, problem):
        return all(compat.plain_tensor(x) for x in problem if isinstance(x, torch.Tensor))

    def views(self, problem, axis, scores):
        z, row = problem.logits, None
        if not (scores and z.is_cpu) and (z.layout is not torch.strided or z.is_neg()):
            return None
        if not z.is_cpu:
            return (None, None) if problem.targets.layout is torch.strided else None
        try:  # NumPy takes no other layout, no pending minus sign and no gradient
            if scores and z.dtype in KNOWN_TO_NUMPY:
                row = z.detach().numpy()
                row = row[0] if axis == 1 and z.ndim == 2 else row[first_element(z.ndim, axis)]
            elif scores:
                row = z.detach()[first_element(z.ndim, axis)].float().numpy()
            values = [None] * (len(problem) - 1)
            for place, value in enumerate(problem[1:]):  # no comprehension, whose frame costs as much as its work
                values[place] = value.numpy() if isinstance(value, torch.Tensor) else value
            return row, values
        except (TypeError, RuntimeError, IndexError):  # or there is no first element
            return None

    def tracing(self):
        return torch.compiler.is_compiling()

    def template(self, shape, dtype, like):
        return torch.zeros((), dtype=dtype or torch.get_default_dtype(), device=like.device).expand(shape)

    def loss(self, call):
        problem = call.problem
        if call.memo is not None or compat.eligible(problem.logits, others=[*problem][1:]):
            return autograd.loss(call)
        if self.tracing() and operators.supports(problem):
            return total(problem, call.settings, XP, operators.elements)
        self._by_spec()
        return super().loss(call)

    def loss_and_grad(self, call, out=None):
        z, settings = call.problem.logits, call.settings
        if out is not None and (not isinstance(out, torch.Tensor) or out.shape != z.shape or out.dtype != z.dtype):
            expected = f"a tensor of shape {tuple(z.shape)} and dtype {z.dtype}"
            got = f"{type(out).__name__} {tuple(getattr(out, 'shape', ()))} {getattr(out, 'dtype', '')}"
            raise complain("out", expected, got, "Make it with torch.empty_like(logits).")
        if out is not None:
            self.meets("out", out, z)
        if call.memo is None and not compat.eligible(z):
            self._by_spec()
            return self._loss_and_grad_by_spec(call.problem, settings, out)
        with torch.no_grad():
            plan, kernel = plan_and_kernel(call)
            return kernel(z.detach(), plan, settings.axis, summed=settings.reduction != "none", out=out)

    def _by_spec(self):
        if not self.tracing():  # a compiler cannot look at the caller's requested
            select("spec")

    def _loss_and_grad_by_spec(self, problem, settings, out):
        with torch.set_grad_enabled(compat.functorch_active()):  # else no graph, as of a kernel
            plan = reduced_plan(problem, settings, XP)
            loss, gradient = spec.losses_and_gradient(problem.logits, plan, settings.axis, XP)
            loss = loss if settings.reduction == "none" else loss.sum()
            return loss, gradient.to(problem.logits.dtype) if out is None else out.copy_(gradient)

    def linear_loss(self, hidden, classifier, bias, chunk_rows, call):
        given = hidden, classifier, bias, chunk_rows, call.problem, call.settings
        traced = operators.head_loss(*given) if self.tracing() else None
        return linear.loss(*given) if traced is None else traced

    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, call):
        return linear.loss_and_grad(hidden, classifier, bias, chunk_rows, call.problem, call.settings)

    def smoothing_correction(self, hidden, classifier, bias, call):
        return linear.smoothing_correction(hidden, classifier, bias, call.problem, call.settings)


functions = Functions(TorchBackend())
