"""What one column of the pitfalls' table does with an input: PyTorch's way, Optax's way, multismooth's."""

import inspect
import weakref
from dataclasses import replace

import numpy as np
from adapters import NUMPY, TORCH
from requirements import need

from multismooth import conventions

# --- inputs: N = 4, K = 3 -------------------------------------------------------------------------------------------

Z = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [1.0, -1.0, 0.5], [0.2, 0.3, -0.4]], np.float32)
Y = np.array([0, 2, 1, 1])
ONE_HOT = np.eye(3, dtype=np.float32)[Y]
SMOOTHED = np.float32(0.9) * ONE_HOT + np.float32(0.1 / 3)
IMPOSSIBLE, POSSIBLE = Z.copy(), np.array([0, 1, 1, 0])  # class 2 cannot occur, and does not
IMPOSSIBLE[:, 2] = -np.inf
CLASSES = np.array([True, True, False])
EXISTING = CLASSES.astype(np.float32)
BROKEN = Z.copy()
BROKEN[3] = np.nan
IGNORED = np.full(4, -100)
RARE = np.array([1, 5, 0.2], np.float32)
EXTREME = np.array([1, 1, 40], np.float32)
CUBE = np.stack([Z[:3], Z[1:]])  # (2, 3, 3): classes could be axis 1 or 2
CUBE_LABELS = np.array([[0, 2, 1], [2, 1, 1]])
WIDE, FIRST = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float16), np.array([0, 1])
BATCH, VOCABULARY = 64, 4096
KL = replace(conventions["torch"], objective="kl")


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def last_label(label):
    return np.array([0, 2, 1, label])


# --- the three columns ----------------------------------------------------------------------------------------------


def by_torch(logits, targets, weight=None, **settings):
    """(loss, gradient) of torch.nn.functional.cross_entropy with ε = 0.1."""
    torch = need("torch")
    z = torch.from_numpy(logits.copy()).requires_grad_()
    weight = None if weight is None else torch.from_numpy(weight)
    settings = {"label_smoothing": 0.1} | settings
    loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(np.asarray(targets)), weight=weight, **settings)
    return loss.item(), torch.autograd.grad(loss, z)[0].float().numpy()


def rows(targets, label_smoothing=0.1, classes=3):
    """Smoothed one-hot rows, the Optax way; distributions are smoothed as they are."""
    jax, optax = need("jax"), need("optax")
    t = jax.nn.one_hot(targets, classes) if np.ndim(targets) == 1 else jax.numpy.asarray(targets)
    return optax.smooth_labels(t, label_smoothing)


def by_optax(logits, q, name="softmax_cross_entropy", **settings):
    """(loss, gradient) of an Optax loss, averaged over the rows."""
    jax, function = need("jax"), getattr(need("optax"), name)
    loss, gradient = jax.value_and_grad(lambda z: function(z, q, **settings).mean())(jax.numpy.asarray(logits))
    return float(loss), np.asarray(gradient, np.float32)


def both_routes(logits, labels, label_smoothing=0.1):
    """Optax for integer labels, which it cannot smooth, and for one-hot rows, which it can."""
    integer = by_optax(logits, labels, "softmax_cross_entropy_with_integer_labels")
    return {"integer labels (ε = 0)": integer, "one-hot": by_optax(logits, rows(labels, label_smoothing))}


def ignoring_by_optax(mask):
    """Two means of a loss with `where=`: over all rows, and over the rows that count."""
    jax, optax = need("jax"), need("optax")

    def outcome(**counted):
        def mean(z):
            losses = optax.softmax_cross_entropy(z, rows(Y), where=mask[:, None])
            return losses.mean(**counted)

        loss, gradient = jax.value_and_grad(mean)(jax.numpy.asarray(BROKEN))
        return float(loss), np.asarray(gradient)

    return {"mean of all rows": outcome(), "of the counted": outcome(where=mask)}


def ours(logits, targets, **settings):
    """(loss, gradient) of multismooth, ε = 0.1 by default, by any backend."""
    return lambda backend: backend.call("loss_and_grad", logits, targets, **settings)


def lacks(function, argument):
    """That a function has no such argument."""
    return "accepts it" if argument in inspect.signature(function).parameters else f"has no `{argument}`"


# --- what needs more than a call ------------------------------------------------------------------------------------


def implied_row(loss_and_grad):
    """The target row that a loss's gradient at z = 0 reveals: q = 1/K − ∂loss/∂z."""
    return 1 / 3 - np.asarray(loss_and_grad(np.zeros((1, 3), np.float32), np.array([0]))[1])[0]


def kl_by_torch(reduction):
    functional = need("torch").nn.functional
    log_p = functional.log_softmax(TORCH.array(Z), -1)
    return functional.kl_div(log_p, TORCH.array(SMOOTHED), reduction=reduction).item()


def kl_by_optax():
    return float(need("optax").losses.kl_divergence(need("jax").nn.log_softmax(Z), rows(Y)).mean())


def float_ids_by_optax():
    """`smooth_labels` takes any floats; these are class ids, not rows."""
    return np.asarray(need("optax").smooth_labels(need("jax").numpy.asarray(Y, np.float32), 0.1))


def last_axis_by_optax():
    return by_optax(CUBE, need("optax").smooth_labels(need("jax").nn.one_hot(CUBE_LABELS, 3), 0.1))


def zero_times_infinity_by_optax():
    one_hot = need("jax").nn.one_hot(POSSIBLE, 3)
    names = ("softmax_cross_entropy", "safe_softmax_cross_entropy")
    return {name.partition("softmax")[0] + "softmax": by_optax(IMPOSSIBLE, one_hot, name) for name in names}


def weightless():
    return lacks(need("optax").softmax_cross_entropy, "weight")


def masked_by_optax():
    mask = need("jax").numpy.broadcast_to(CLASSES, Z.shape)
    smoothed = need("optax").smooth_labels(need("jax").nn.one_hot(POSSIBLE, 3), 0.1, where=mask)
    return by_optax(IMPOSSIBLE, smoothed, where=mask)


def perfect(loss_and_grad):
    """The loss of a model that predicts exactly q."""
    return float(loss_and_grad(np.log(SMOOTHED[:1]) + 1, Y[:1])[0])


def in_bfloat16(compute):
    """What dtype a bfloat16 loss comes back in, and the size of its error."""
    logits = np.random.default_rng(0).normal(size=(1, 50_000)).astype(need("ml_dtypes").bfloat16)
    exact = float(NUMPY.call("loss", logits.astype(np.float64), FIRST[:1]))
    loss = compute(logits)
    error = abs(float(loss) - exact)
    size = "below 1e-4" if error < 1e-4 else f"about 1e{round(np.log10(error))}"
    return f"{str(loss.dtype).rpartition('.')[2]}, error {size}"


def peak_in_torch(loss):
    """Peak memory that a loss and its gradient allocate, in units of the logits."""
    torch = need("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Peak(TorchDispatchMode):
        now = top = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            before = {t.untyped_storage()._cdata for t in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(t)}
            result = function(*args, **(kwargs or {}))
            for t in torch.utils._pytree.tree_leaves(result):
                if torch.is_tensor(t) and (storage := t.untyped_storage())._cdata not in before:
                    before.add(storage._cdata)
                    self.allocate(storage.nbytes())
                    weakref.finalize(storage, self.allocate, -storage.nbytes())
            return result

        def allocate(self, size):
            self.now += size
            self.top = max(self.top, self.now)

    z, y = torch.zeros(BATCH, VOCABULARY, requires_grad=True), torch.zeros(BATCH, dtype=torch.int64)
    with Peak() as peak:
        (gradient,) = torch.autograd.grad(loss(z, y), z)
    top = peak.top if peak.top >= gradient.nbytes else peak.top + gradient.nbytes  # NumPy's memory passes unseen
    return f"{top / (4 * BATCH * VOCABULARY):.1f} × the logits"


def peak_in_jax(loss):
    jax = need("jax")
    z, y = jax.numpy.zeros((BATCH, VOCABULARY)), jax.numpy.zeros(BATCH, int)
    used = jax.jit(jax.value_and_grad(loss)).lower(z, y).compile().memory_analysis()
    return f"{(used.temp_size_in_bytes + used.output_size_in_bytes) / (4 * BATCH * VOCABULARY):.1f} × the logits"


def torch_bfloat16(logits):
    return need("torch").nn.functional.cross_entropy(*map(TORCH.array, (logits, FIRST[:1])), label_smoothing=0.1)


def optax_mean(z, y):
    return need("optax").softmax_cross_entropy(z, rows(y, classes=z.shape[1])).mean()


def our_bfloat16(backend):
    if "bfloat16" not in backend.narrow:
        return NotImplemented
    return in_bfloat16(lambda z: backend.call("loss", z, FIRST[:1]))


def our_peak(backend):
    if backend is NUMPY:
        return NotImplemented  # an array more per NumPy expression: not what the other columns measure
    return (peak_in_torch if backend is TORCH else peak_in_jax)(backend.functions().loss)
