"""Every private interface of PyTorch that is used, each with the reason that no public one does.

`tests/test_compat.py` asks for each of them under the lowest and the newest PyTorch.
"""

import torch
import torch.utils._python_dispatch

# The backward kernel of log softmax, g − exp(log p)·Σg: a core operator of PyTorch. Called as `torch.ops.aten.…` it
# takes 2 µs more.
log_softmax_backward = torch._log_softmax_backward_data

# A context without FakeTensorMode and its like: what runs in it runs for real, whoever is tracing.
without_modes = torch.utils._python_dispatch._disable_current_modes

_PROXY = torch._C._TorchDispatchModeKey.PROXY


def apply_of(function):
    """`function.apply` of an autograd.Function without its check for torch.func, which `transforming` has made.

    The check takes 2 µs, as long as the loss of 500 logits.
    """
    return super(torch.autograd.Function, function).apply


# float16 and bfloat16 operands with a float32 sum in one product.
ADDMM_OUT_DTYPE = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)


def constant_result(function):
    """`torch.compiler.assume_constant_result` without its import of Dynamo, which takes 1.2 s (PyTorch: 1.0 s)."""
    function._dynamo_marked_constant = True
    return function


def functorch_active():
    """Whether a transform of torch.func follows this call. There is no public way to ask."""
    return torch._C._are_functorch_transforms_active()


def forward_mode():
    """Whether forward-mode AD is on. A tensor could be asked for its tangent, but none may have met one yet."""
    return torch.autograd.forward_ad._current_level >= 0


def transforming():
    """Whether a compiler, a tracer, torch.func or forward-mode AD follows this call: then only `spec` computes it."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or torch._C._get_dispatch_mode(_PROXY) is not None  # make_fx
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def watched():
    """Whether anything at all follows this call: a transform, or a dispatch mode such as FakeTensorMode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def differentiates_backward(upstream):
    """Whether backward itself will be differentiated, or runs under a vmap: of torch.func, or `is_grads_batched`."""
    functorch = torch._C._functorch
    return (
        torch.is_grad_enabled()
        or functorch.is_legacy_batchedtensor(upstream)
        or functorch.is_functorch_wrapped_tensor(upstream)
        or transforming()
    )


def legacy_reduction(size_average, reduce):
    """The reduction that torch's two retired flags mean, with torch's own warning."""
    return torch.nn._reduction.legacy_get_string(size_average, reduce)


def warn_of_reduction(name):
    """Torch's own warning for the name of a reduction that it has retired."""
    torch.nn._reduction.get_enum(name)


def plain_tensor(tensor):
    """Whether this is a tensor or a parameter, and no subclass with a mind of its own."""
    return type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter


def eligible(*differentiable, others=()):
    """Whether the kernels may compute a call: plain tensors, no transform, no gradient of the `others` is asked for."""
    if transforming():
        return False
    for tensor in differentiable:
        if not plain_tensor(tensor):
            return False
    return not any(isinstance(value, torch.Tensor) and value.requires_grad for value in others)
