"""What `cpu.py --linear` and `cpu.py --options` measure: the linear head, and what the options of a loss cost."""

import torch
import torch.nn.functional as F
from contenders import Problem, torch_eager, with_kernels
from cpu import medians

import multismooth
import multismooth.torch


def linear_head(rounds, rows=2048, features=512, classes=50257):
    """Time of forward and backward of a smoothed linear head, relative to its three matrix products alone."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, features, generator=generator, requires_grad=True)
    classifier = (torch.randn(classes, features, generator=generator) * 0.02).requires_grad_()
    labels = torch.randint(0, classes, (rows,), generator=generator)
    g = torch.randn(rows, classes, generator=generator)

    def products():
        with torch.no_grad():
            return (hidden @ classifier.T).shape, g @ classifier, g.T @ hidden

    def run(loss):
        def call():
            loss().backward()
            hidden.grad = classifier.grad = None

        return call

    def ours(epsilon):
        return run(lambda: multismooth.torch.linear_loss(hidden, classifier, labels, label_smoothing=epsilon))

    runs = {
        "the three products": products,
        "multismooth.torch.linear_loss": ours(0.1),
        "multismooth.torch.linear_loss, unsmoothed": ours(0.0),
        "F.cross_entropy of the logits": run(
            lambda: F.cross_entropy(hidden @ classifier.T, labels, label_smoothing=0.1)
        ),
    }
    if hasattr(F, "linear_cross_entropy"):
        chunked = torch.nn.LinearCrossEntropyOptions()
        runs["F.linear_cross_entropy"] = run(
            lambda: F.linear_cross_entropy(hidden, classifier, labels, label_smoothing=0.1)
        )
        runs["F.linear_cross_entropy, unsmoothed, chunked"] = run(
            lambda: F.linear_cross_entropy(hidden, classifier, labels, options=chunked)
        )
    found = medians(runs, max(3, rounds // 2), rows * classes)
    base = found["the three products"]
    size = {"rows": rows, "features": features, "classes": classes}
    return size | {"seconds": found, "ratios": {name: seconds / base for name, seconds in found.items()}}


def option_costs(rounds):
    """Time of this library's forward and backward with an option, relative to the time without it."""
    rows = []
    for shape in ((4096, 1000), (2048, 32000)):
        problem = Problem(shape, "float32")
        classes = shape[1]
        ignored = torch.rand(shape[0], generator=torch.Generator().manual_seed(0)) < 0.2
        weights = torch.linspace(0.5, 1.5, classes)
        mask = torch.arange(classes) < classes - 7
        cases = {
            "plain": (problem.labels, {}),
            "20 % ignored": (problem.labels.masked_fill(ignored, -100), {}),
            "class weights": (problem.labels, {"weight": weights}),
            "class mask": (problem.labels.clamp(max=classes - 8), {"class_mask": mask}),
            "prior": (problem.labels, {"prior": weights / weights.sum()}),
            "z_loss": (problem.labels, {"z_loss": 1e-4}),
        }
        for name in ("fused", "numba"):
            runs = {}
            for case, (labels, options) in cases.items():
                own = Problem.__new__(Problem)  # shares the logits of `problem`
                own.leaf, own.labels = problem.leaf, labels
                runs[case] = with_kernels((name,), torch_eager(own, multismooth.torch.loss, **options))
            found = medians(runs, rounds, shape[0] * shape[1])
            costs = {case: seconds / found["plain"] for case, seconds in found.items()}
            rows.append({"shape": list(shape), "implementation": name, "ratios": costs})
    return rows
