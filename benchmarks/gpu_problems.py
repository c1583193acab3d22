"""The problems of `gpu.py`: tensors that are filled anew for every call, and their results in float64."""

import torch
from cpu import errors

CHECKED_ROWS = 64  # gradients of these are compared with float64; the loss is that of all rows
MAX_CHUNK = 2**24  # numbers of a chunk in float64: 128 MiB


def spread(size, count=CHECKED_ROWS):
    """`count` indices at equal distances, from the first to the last."""
    return torch.linspace(0, size - 1, min(count, size)).long()


def softmax_and_loss(z, y, smoothing):
    """(p − q, losses) of float64 rows, where q is the smoothed target. y: labels, or soft targets, of any sum."""
    if y.ndim == 2:
        q = (1 - smoothing) * y.double() + smoothing / z.shape[1]
        return z.softmax(1) * q.sum(1, True) - q, q.sum(1) * z.logsumexp(1) - (q * z).sum(1)
    losses = z.logsumexp(1) - (1 - smoothing) * z.gather(1, y[:, None])[:, 0] - smoothing * z.mean(1)
    g = z.softmax(1).sub_(smoothing / z.shape[1])
    return g.scatter_add_(1, y[:, None], torch.full_like(y[:, None], smoothing - 1, dtype=g.dtype)), losses


def error(found, reference):
    """(relative error of the loss, largest error of each gradient over its largest entry)."""
    loss, *gradients = found
    exact, *rest = reference
    pairs = [errors((loss, g.cpu()), (exact, r.cpu().numpy())) for g, r in zip(gradients, rest, strict=True)]
    return pairs[0][0], *(gap for _, gap in pairs)


class Logits:
    """Logits 3·randn with classes on axis 1, and labels. `fill` makes new ones in the same memory."""

    def __init__(self, shape, dtype, device, small=False):
        self.shape, self.small, self.group = shape, small, f"{dtype}, small" if small else dtype
        self.generator = torch.Generator(device)
        self.logits = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        self.targets = self.no_targets()
        self.out = torch.zeros_like(self.logits)
        self.leaf = self.logits.detach().requires_grad_()  # the same memory
        self.leaves = (self.leaf,)
        self.weights = torch.empty((shape[0], *shape[2:]), device=device)

    def no_targets(self):
        """Memory for the targets."""
        return torch.empty((self.shape[0], *self.shape[2:]), dtype=torch.long, device=self.logits.device)

    @property
    def bytes(self):
        """The unit in which extra memory is reported."""
        return self.logits.numel() * self.logits.itemsize

    def fill(self, seed):
        self.generator.manual_seed(seed)
        self.logits.normal_(0, 3, generator=self.generator)
        self.fill_targets()
        self.weights.uniform_(0.5, 1.5, generator=self.generator).div_(self.weights.numel())

    def fill_targets(self):
        self.targets.random_(0, self.shape[1], generator=self.generator)

    def target_rows(self):
        return self.targets.flatten()

    def rows(self, array):
        return array.movedim(1, -1).flatten(0, -2)  # (N, K)

    def upstream_gradient(self, upstream):
        """(N,): what each element's gradient is multiplied by."""
        known = {"mean": 1 / self.weights.numel(), "sum": 1.0}
        return (
            torch.full_like(self.weights, known[upstream], dtype=torch.float64) if upstream in known else self.weights
        )

    def exact(self, contender):
        z, y = self.rows(self.logits), self.target_rows()
        c, some, loss = self.upstream_gradient(contender.upstream).flatten().double(), spread(len(y)).to(y.device), 0.0
        for part in torch.arange(len(y), device=y.device).split(max(1, MAX_CHUNK // z.shape[1])):
            loss += float(c[part] @ softmax_and_loss(z[part].double(), y[part], contender.smoothing)[1])
        return loss, softmax_and_loss(z[some].double(), y[some], contender.smoothing)[0] * c[some, None]

    def error(self, result, reference, contender):
        loss, gradient = map(torch.from_dlpack, result)
        if loss.ndim:
            loss = (loss.double() * self.upstream_gradient(contender.upstream)).sum()
        return error((loss, self.rows(gradient)[spread(self.weights.numel()).to(gradient.device)]), reference)


class Soft(Logits):
    """The same with soft targets in the logits' dtype: softmax(3·randn), as a teacher's."""

    def __init__(self, shape, dtype, device):
        super().__init__(shape, dtype, device)
        self.group = f"{dtype}, soft targets"

    def no_targets(self):
        return torch.empty_like(self.logits)

    def fill_targets(self):
        self.targets.normal_(0, 3, generator=self.generator)
        torch.softmax(self.targets, 1, out=self.targets)

    def target_rows(self):
        return self.rows(self.targets)


class Head:
    """Features randn (N, D), classifier 0.02·randn (K, D), and labels. The products alone need g (N, K) in addition."""

    small = False
    bytes = 2**30  # the unit in which extra memory is reported

    def __init__(self, shape, dtype, device):
        rows, features, classes = self.shape = shape
        self.group = f"{dtype}, linear head"
        self.generator = torch.Generator(device)
        like = {"dtype": getattr(torch, dtype), "device": device}
        self.hidden = torch.empty(rows, features, **like).requires_grad_()
        self.classifier = torch.empty(classes, features, **like).requires_grad_()
        self.targets = torch.empty(rows, dtype=torch.long, device=device)
        self.g = torch.randn(rows, classes, **like)
        self.leaves = (self.hidden, self.classifier)

    @torch.no_grad()
    def fill(self, seed):
        self.generator.manual_seed(seed)
        self.hidden.normal_(0, 1, generator=self.generator)
        self.classifier.normal_(0, 0.02, generator=self.generator)
        self.targets.random_(0, self.shape[2], generator=self.generator)

    @torch.no_grad()
    def exact(self, contender):
        rows, features, classes = self.shape
        x, w, y = self.hidden.double(), self.classifier.double(), self.targets
        some, few = spread(rows).to(y.device), spread(classes).to(y.device)
        loss, d_classifier = 0.0, w.new_zeros(len(few), features)
        for part in torch.arange(rows, device=y.device).split(max(1, MAX_CHUNK // classes)):
            g, losses = softmax_and_loss(x[part] @ w.T, y[part], contender.smoothing)
            loss += float(losses.sum()) / rows
            d_classifier += g[:, few].T @ x[part] / rows
        d_hidden = softmax_and_loss(x[some] @ w.T, y[some], contender.smoothing)[0] @ w / rows
        return loss, d_hidden, d_classifier

    def error(self, result, reference, contender):
        loss, d_hidden, d_classifier = result
        some, few = (spread(size).to(loss.device) for size in self.shape[::2])
        return error((loss, d_hidden[some], d_classifier[few]), reference)
