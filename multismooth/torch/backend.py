"""How PyTorch tensors are made, looked at and evaluated for `multismooth.functions`."""

import torch

from multismooth.backend import Backend, total
from multismooth.errors import complain
from multismooth.functions import Functions
from multismooth.implementations import choose
from multismooth.problem import Usual
from multismooth.torch import fused, kernels, linear, ops
from multismooth.torch.namespace import XP
from multismooth.torch.plans import planned

FEW = slice(0, 4)


class TorchBackend(Backend):
    name = "torch"
    xp = XP

    def is_array(self, value):
        return isinstance(value, torch.Tensor)

    def array(self, value, like=None):
        """Tensors stay on their device (torch itself refuses to mix); other integers become int64, to index with."""
        if not isinstance(value, torch.Tensor):
            value = torch.as_tensor(value, device=None if like is None else like.device)
        integer = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool)
        return value.long() if integer and value.dtype is not torch.int64 else value

    def kind(self, array):
        if array.dtype.is_floating_point:
            return "floating"
        return "boolean" if array.dtype is torch.bool else "other" if array.dtype.is_complex else "integer"

    def values(self, array, validate):
        if fused.transforming() or not fused.plain_tensor(array) or array.is_meta:
            return None
        if array.device.type != "cpu" and not validate:
            return None
        array = array.detach() if array.device.type == "cpu" else array.detach().cpu()
        return array.float().numpy() if array.dtype is torch.bfloat16 else array.numpy()

    def first_row(self, z, axis, validate):
        if z.numel() == 0:
            return None
        first = tuple(slice(None) if k == axis else 0 for k in range(z.ndim))
        if z.device.type != "cpu" or z.dtype is torch.bfloat16:
            return self.values(z[first], validate)
        values = self.values(z, validate)
        return None if values is None else values[first]

    def glance(self, z, targets, axis):
        if not (z.is_cpu and targets.is_cpu and z.numel() and fused.eligible(z, targets)):
            return None, None
        z = z.detach() if z.dtype is torch.bfloat16 else z.detach().numpy()
        few = z[0, :4] if axis == 1 and z.ndim == 2 else z[tuple(FEW if k == axis else 0 for k in range(z.ndim))]
        return targets.numpy(), few.tolist()

    def tracing(self):
        return torch.compiler.is_compiling()

    def template(self, shape, dtype, like):
        return torch.zeros((), dtype=dtype or torch.get_default_dtype(), device=like.device).expand(shape)

    def loss(self, problem, settings):
        usual = type(settings) is Usual  # looked at in `glance`
        if usual or fused.eligible(problem.logits, others=[*problem][1:]):
            return fused.loss(problem, settings)
        if self.tracing() and ops.able(problem):
            return total(problem, settings, XP, ops.elements)
        self._by_spec()
        return super().loss(problem, settings)

    def loss_and_grad(self, problem, settings, out=None):
        z = problem.logits
        if out is not None and (not isinstance(out, torch.Tensor) or out.shape != z.shape or out.dtype != z.dtype):
            expected = f"a tensor of shape {tuple(z.shape)} and dtype {z.dtype}"
            raise complain("out", expected, f"{type(out).__name__} {tuple(getattr(out, 'shape', ()))}", "")
        if type(settings) is not Usual and not fused.eligible(z):
            self._by_spec()
            return self._loss_and_grad_by_autograd(problem, settings, out)
        with torch.no_grad():
            plan = planned(problem, settings)
            kernel = kernels.chosen_once(settings, z, plan)
            return kernel(z.detach(), plan, settings.axis, summed=settings.reduction != "none", out=out)

    def _by_spec(self):
        if not self.tracing():  # a compiler cannot look at the caller's wish
            choose("spec")

    def _loss_and_grad_by_autograd(self, problem, settings, out):
        def summed(logits):
            loss = super(TorchBackend, self).loss(problem._replace(logits=logits), settings)
            return loss.sum(), loss

        gradient, loss = torch.func.grad(summed, has_aux=True)(problem.logits)
        return loss, gradient if out is None else out.copy_(gradient)

    def linear_loss(self, hidden, classifier, bias, chunk_rows, problem, settings):
        traced = None
        if self.tracing():
            traced = ops.head_loss(hidden, classifier, bias, chunk_rows, problem, settings)
        return linear.loss(hidden, classifier, bias, chunk_rows, problem, settings) if traced is None else traced

    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, problem, settings):
        return linear.loss_and_grad(hidden, classifier, bias, chunk_rows, problem, settings)

    def smoothing_correction(self, hidden, classifier, bias, problem, settings):
        return linear.smoothing_correction(hidden, classifier, bias, problem, settings)


functions = Functions(TorchBackend())
