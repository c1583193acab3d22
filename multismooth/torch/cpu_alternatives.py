"""The losses beside smoothing of one chunk on a CPU: few calls of PyTorch, in place, while the chunk is in cache.

Every gradient is ∂/∂z = p·h − b·v − a·δ, with δ one at the label, plus what an added term adds. `_Chunk` has what all
need: d = z − max z, p = softmax(z) and log Σ exp d. Each alternative has one function, which returns the losses and
writes the gradient to `chunk.out`. `multismooth.alternatives` has the formulas, and computes the elements whose loss
here is not finite.

Measured per million logits of float32, one thread (µs): softmax 440, exp 630, power 1650, the index of the largest 600;
an operation on one or two arrays 50 to 90, a sum 50, the largest 60. So p is not made from log p. Where memory is first
touched, each takes twice as long.
"""

import torch

from multismooth import spec
from multismooth.alternatives import Divergence, Focal, LabelFocal, Margin, Penalty
from multismooth.alternatives.added import empty
from multismooth.alternatives.focal import only_label, power
from multismooth.cpu.alternatives import repair
from multismooth.cpu.buffers import SCRATCH
from multismooth.spec import product, wide
from multismooth.torch.cpu_chunked import MIN_CLASSES_SUMMED_AGAIN, weighted_sum
from multismooth.torch.namespace import XP, float_of

# Logits per chunk: 8 MiB of scratch memory. Chunks of a quarter stay in the second cache level, and are no faster: each
# has some forty calls on its elements, of 2 µs each. (Distillation, (4096, 1000): 2^16 2.9 times `loss`, 2^17 2.3, 2^18
# 2.0, 2^19 1.9, 2^20 2.0.)
CHUNK_LOGITS = 2**19
BUFFERS = 4  # for d, p, and two more
MAX_OFFSET = 16.0  # so far from 0 a logit may be without costing digits
MIN_P = 1e-7  # a label's p may be so small without costing digits of log Σ exp z = z_y − log p_y
POWERS = (1.0, 2.0, 3.0, 4.0)  # temperatures T at which softmax(z) is a product of softmax(z/T) with itself


class _Chunk:
    """The logits of a chunk, and what is made of them in scratch memory."""

    def __init__(self, z, plan, out):
        memory = SCRATCH.take(BUFFERS * z.numel() * z.itemsize)
        self.d, self.p, self.first, self.second = (
            torch.from_numpy(memory).view(z.dtype).view(BUFFERS, *z.shape).unbind()
        )
        self.z, self.plan, self.out, self.index = z, plan, out, plan.labels.unsqueeze(1)

    def softmax(self, temperature=1.0):
        """Write d = z − max z, and softmax(d/T) to p; return log Σ exp(d/T)."""
        self.peak = self.z.amax(1)
        d = torch.sub(self.z, self.peak.unsqueeze(1), out=self.d)
        p = softmax(d if temperature == 1.0 else torch.mul(d, 1 / temperature, out=self.p), self.p)
        return p.amax(1).log_().neg_()

    def at_label(self, array):
        return array.gather(1, self.index).squeeze(1)

    def statistics(self, log_total):
        """(lse, nll, smooth) of the plan, from d."""
        smooth = 0.0 if only_label(self.plan) else self.plan.v_sum * log_total - weighted_sum(self.d, self.plan.v)
        return self.peak + log_total, log_total - self.at_label(self.d), smooth

    def losses(self, statistics):
        return spec.elements(*statistics, self.plan, XP)

    def write(self, p, plan, height, *added, label_term=None):
        """p·height − b·v − a·δ + Σ array·factor to out, of pairs (array, factor). p is used up.

        All but the last step are in p: `out` is read from memory when it is first written.
        """
        terms, by = list(added), wide(height, 1, XP)
        if not only_label(plan):
            b = -plan.b if plan.v is not None else plan.b * (-1 / p.shape[1])
            terms.insert(0, (1.0 if plan.v is None else plan.v, b))
        if terms:
            p.mul_(by)
            for term in terms[:-1]:
                add(p, *term, out=p)
            add(p, *terms[-1], out=self.out)
        else:
            torch.mul(p, by, out=self.out)
        if label_term is None:
            label_term = -plan.a if isinstance(plan.a, torch.Tensor) else self.peak.new_tensor(-plan.a)
        self.out.scatter_add_(1, self.index, label_term.expand(plan.labels.shape).unsqueeze(1))


def softmax(z, p):
    """Write softmax(z) to p, which may be z, and return it."""
    torch.softmax(z, 1, out=p)
    return p.div_(p.sum(1, keepdim=True)) if p.ndim == 2 and p.shape[1] >= MIN_CLASSES_SUMMED_AGAIN else p


def height(plan, lse):
    """What p is multiplied by in the gradient of the plan's own loss."""
    total = plan.a + plan.b * plan.v_sum
    return total if plan.z_loss is None else total + 2 * plan.z_loss * lse


def add(x, array, factor, out):
    """x + array·factor to out. The factor is a number, or one per element; the array may be a number."""
    if not isinstance(array, torch.Tensor):
        return torch.add(x, wide(factor, 1, XP) * array, out=out)
    if isinstance(factor, torch.Tensor):
        return torch.addcmul(x, array, wide(factor, 1, XP), out=out)
    return torch.add(x, array, alpha=factor, out=out)


# --- one function per alternative -----------------------------------------------------------------------------------


def focal(chunk, focal):
    if not only_label(chunk.plan):
        return focal_of_classes(chunk, focal)
    plan = chunk.plan
    lse, surprise, _ = chunk.statistics(chunk.softmax())
    p = torch.exp(-surprise)
    modulator = focal.modulator(p, XP)
    if chunk.out is not None:
        target = plan._replace(a=plan.a * focal.slope(surprise, p, modulator, XP))
        chunk.write(chunk.p, target, height(target, lse))
    return chunk.losses((lse, focal.cost(surprise, p, modulator, XP), 0.0))


def focal_of_classes(chunk, focal):
    """With m = 1 − p and s = −log p: the costs m^γ·s, and their slopes m^γ + γ·p·m^(γ−1)·s, for γ ≥ 1."""
    plan, p, s, m, gamma = chunk.plan, chunk.p, chunk.d, chunk.second, float(focal.gamma)
    log_total = chunk.softmax()
    lse = chunk.peak + log_total
    torch.sub(log_total.unsqueeze(1), s, out=s)
    torch.sub(1, p, out=m)
    if gamma != 1.0:
        s.mul_(m if gamma == 2.0 else torch.pow(m, gamma - 1, out=chunk.first))
    cost = torch.mul(m, s, out=chunk.first)
    losses = chunk.losses((lse, chunk.at_label(cost), weighted_sum(cost, plan.v)))
    if chunk.out is not None:
        slope = m.pow_(gamma).addcmul_(p, s, value=gamma)
        each = 1 / p.shape[1] if plan.v is None else 1.0
        own = plan._replace(a=plan.a * chunk.at_label(slope), b=0.0)
        if plan.v is not None:
            slope.mul_(plan.v)
        total = height(own, lse) + plan.b * slope.sum(1).mul_(each)
        chunk.write(p, own, total, (slope, plan.b * -each))
    return losses


def label_focal(chunk, focal):
    """m_y is the sum of the other classes. Where the gradient is written, p_y is 0: the label has its own term."""
    plan, p = chunk.plan, chunk.p
    statistics = chunk.statistics(chunk.softmax())
    lse, p_y = statistics[0], chunk.at_label(p)
    rest = p.scatter_(1, chunk.index, 0.0).sum(1)
    factor = power(rest, focal.gamma, XP)
    loss = spec.elements(*statistics, plan._replace(z_loss=None), XP)
    if chunk.out is not None:
        own = spec.scaled(plan, factor, z_loss_factor=1.0)
        rise, slope = focal.gamma * factor * p_y * loss, height(own, lse)
        others = slope + rise / torch.where(rest == 0, 1.0, rest)
        chunk.write(p, own, others, label_term=p_y * slope - own.a - rise)
    loss = product(factor, loss, XP)
    return loss if plan.z_loss is None else loss + plan.z_loss * lse**2


def penalty(chunk, penalty):
    """Σ p log p = Σ p·d − log Σ exp d."""
    plan, strength = chunk.plan, penalty.strength
    log_total = chunk.softmax()
    statistics = chunk.statistics(log_total)
    each = torch.mul(chunk.p, chunk.d, out=chunk.first)
    mean = each.sum(1)
    if chunk.out is not None:
        chunk.write(chunk.p, plan, height(plan, statistics[0]) - strength * mean, (each, strength))
    return chunk.losses(statistics) + strength * (mean - log_total)


def margin(chunk, margin):
    plan, d, strength = chunk.plan, chunk.d, margin.strength * (1 / chunk.d.shape[1])
    statistics = chunk.statistics(chunk.softmax())
    excess = torch.sub(-float(margin.margin), d, out=chunk.first).clamp_min_(0.0)
    losses = chunk.losses(statistics) + strength * excess.sum(1)
    if chunk.out is not None:
        far, top = excess.gt_(0.0), d.eq_(0.0)
        pull = strength * far.sum(1) / top.sum(1)
        chunk.write(chunk.p, plan, height(plan, statistics[0]), (far, -strength), (top, pull))
    return losses


def divergence(chunk, divergence):
    """Σ q log(q/p) = Σ q·(t − z)/T − log Σ exp(t/T) + log Σ exp(z/T)."""
    temperature, strength, teacher = float(divergence.temperature), divergence.strength, divergence.teacher
    d, p, t, q, cold, alone = chunk.d, chunk.p, chunk.first, chunk.second, 1 / temperature, empty(chunk.plan)
    lse = softened(chunk, chunk.z, cold, d, p) if alone else chunk.softmax(temperature)
    teachers_lse = softened(chunk, teacher.to(d.dtype), cold, t, q)
    added = t.sub_(d, alpha=1 if alone else cold).mul_(q).sum(1).add_(lse).sub_(teachers_lse).mul_(strength)
    if not alone:
        return hard(chunk, temperature, lse, (q, strength * cold)).add_(added)
    if chunk.out is not None:
        torch.mul(p.sub_(q), wide(strength * cold, 1, XP), out=chunk.out)
    return added


def softened(chunk, z, cold, memory, p):
    """Write z/T to memory and softmax(z/T) to p; return log Σ exp(z/T) = z_y/T − log p_y.

    To find the largest logit would take a pass, which waits for memory. Where a large z_y would cost digits, memory has
    (z − z_y)/T.
    """
    at = chunk.at_label(z)
    if bool((at.abs() > MAX_OFFSET).any()):
        torch.sub(z, at.unsqueeze(1), out=memory).mul_(cold)
        at = torch.zeros_like(at)
    else:
        torch.mul(z, cold, out=memory)
        at.mul_(cold)
    found = chunk.at_label(softmax(memory, p))
    rare = found < MIN_P
    if bool(rare.any()):
        at[rare], found[rare] = (x.movedim(1, -1)[rare].amax(1) for x in (memory, p))
    return at.sub_(found.log_())


def hard(chunk, temperature, log_total, taught):
    """The plan's own losses, from p = softmax(z/T) and the logarithm of its sum; the whole gradient."""
    plan, soft, p, (q, pull) = chunk.plan, chunk.p, chunk.first, taught
    if temperature in POWERS:
        power_of(soft, int(temperature), p)
        total = p.sum(1)
        log_total = total.log() + temperature * log_total
    else:
        total, log_total = 1.0, softmax(chunk.d, p).amax(1).log_().neg_()
    statistics = chunk.statistics(log_total)
    if chunk.out is not None:
        chunk.write(p, plan, height(plan, statistics[0]) / total, (soft.sub_(q), pull))
    return chunk.losses(statistics)


def power_of(p, exponent, out):
    """p^exponent, for exponents of 1 to 4."""
    if exponent == 4:
        return torch.square(p, out=out).square_()
    return torch.pow(p, exponent, out=out)


KERNELS = {Focal: focal, LabelFocal: label_focal, Penalty: penalty, Margin: margin, Divergence: divergence}


def supports(plan, alternative):
    """Whether `kernel` computes a chunk: labels, all classes, and γ ≥ 1 where several classes are modulated."""
    if plan.u is not None or plan.mask is not None:
        return False
    return not isinstance(alternative, Focal) or only_label(plan) or float(alternative.gamma) >= 1.0


def kernel(z, plan, alternative, out):
    """The losses of a laid out chunk, its gradient written to `out` unless that is None."""
    z = z.to(float_of(z))
    losses = KERNELS[type(alternative)](_Chunk(z, plan, out), alternative)
    if plan.active is not None:
        inactive = ~plan.active
        losses[inactive] = 0.0
        if out is not None:
            out.movedim(1, -1)[inactive] = 0.0
    exact = losses.isfinite()
    if not bool(exact.all()):
        repair(losses, ~exact, z, plan, alternative, out, XP)
    return losses
