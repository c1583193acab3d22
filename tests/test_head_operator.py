"""A traced linear head is one operator, which computes what the same call computes eagerly."""

import pytest
from requirements import need

import multismooth

torch = need("torch")
need("multismooth.torch")

CLASSES, FEATURES = 40, 16


def drawn(dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    hidden, classifier = torch.randn(4, 5, FEATURES, dtype=dtype), torch.randn(CLASSES, FEATURES, dtype=dtype)
    tensors = [hidden, classifier, *([torch.randn(CLASSES, dtype=dtype)] if bias else [])]
    labels = torch.randint(0, CLASSES - 3, (4, 5))
    labels[1, 2] = -100
    return [tensor.requires_grad_() for tensor in tensors], labels


def traced(call, *tensors):
    """(result of the compiled call, the operators in its graph)."""
    targets = set()

    def backend(graph, inputs):
        targets.update(node.target for node in graph.graph.nodes)
        return need("torch._dynamo.backends.debugging").aot_eager(graph, inputs)

    torch._dynamo.reset()
    return torch.compile(call, backend=backend, fullgraph=True)(*tensors), targets


def settings_for(name, dtype):
    weights = torch.linspace(0.5, 1.5, CLASSES, dtype=dtype)
    return {
        "plain": {},
        "sum": {"reduction": "sum", "chunk_rows": 3},
        "weights": {"weight": weights, "convention": "torch"},
        "prior": {"prior": weights / weights.sum()},
        "mask": {"class_mask": torch.arange(CLASSES) < CLASSES - 3},
        "kl": {"convention": "flax-examples", "reduction": "sum"},
        "z_loss": {"z_loss": 1e-2, "convention": "others"},
        "cap": {"logit_softcap": 2.0},
        "samples": {"sample_weight": torch.rand(4, 5, dtype=dtype)},
        "epsilons": {"label_smoothing": torch.rand(4, 5, dtype=dtype) / 2},
        "normalizer": {"normalizer": torch.tensor(7.0, dtype=dtype)},
    }[name]


FEATURES_OF_A_CALL = (
    *("plain", "sum", "weights", "prior", "mask", "kl", "z_loss", "cap", "samples", "epsilons", "normalizer"),
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("feature", FEATURES_OF_A_CALL)
def test_it_is_the_eager_loss_with_its_gradients(feature, bias):
    tensors, labels = drawn(bias=bias)
    settings = settings_for(feature, tensors[0].dtype)

    def call(hidden, classifier, bias=None):
        return multismooth.torch.linear_loss(hidden, classifier, labels, bias=bias, **settings)

    loss, targets = traced(call, *tensors)
    assert torch.ops.multismooth.head.default in targets
    expected = call(*tensors)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found, right = torch.autograd.grad(3 * loss, tensors), torch.autograd.grad(3 * expected, tensors)
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "settings",
    [
        {"reduction": "none"},
        {"label_smoothing": torch.tensor(0.1, dtype=torch.float64, requires_grad=True)},
        {"class_mask": torch.arange(5 * CLASSES).view(5, CLASSES) % CLASSES < CLASSES - 3},
    ],
    ids=["no sum", "gradient of ε", "a mask for each element"],
)
def test_what_it_cannot_say_is_traced_as_text(settings):
    tensors, labels = drawn()

    def call(hidden, classifier, bias):
        return multismooth.torch.linear_loss(hidden, classifier, labels, bias=bias, **settings)

    loss, targets = traced(call, *tensors)
    assert torch.ops.multismooth.head.default not in targets
    torch.testing.assert_close(loss, call(*tensors), rtol=1e-12, atol=1e-14)


def test_no_gradient_is_made_of_what_is_frozen():
    (hidden, classifier, bias), labels = drawn()
    classifier.requires_grad_(False)
    one = torch.ones(20, dtype=hidden.dtype)
    plan = (labels.flatten().clamp(min=0), one, one / 10, one, None, None, None, None, None, None)
    tensors = hidden.flatten(0, 1).detach(), classifier, bias.detach()
    _, *made = torch.ops.multismooth.head(*tensors, *plan, None, "sum", "float32", [True, False, True])
    assert [gradient.numel() for gradient in made] == [20 * FEATURES, 0, CLASSES]
    loss, _ = traced(lambda h: multismooth.torch.linear_loss(h, classifier, labels, bias=bias), hidden)
    loss.backward()
    assert classifier.grad is None
    assert bias.grad.abs().sum() > 0


def test_autocast_reaches_into_the_operator():
    (hidden, classifier), labels = drawn(torch.float32, bias=False)

    def call(hidden, classifier):
        with torch.autocast("cpu", torch.bfloat16):
            return multismooth.torch.linear_loss(hidden, classifier, labels)

    loss, targets = traced(call, hidden, classifier)
    assert torch.ops.multismooth.head.default in targets
    torch.testing.assert_close(loss, call(hidden, classifier))
    found, right = (torch.autograd.grad(x, [hidden, classifier]) for x in (loss, call(hidden, classifier)))
    torch.testing.assert_close(found, right)


def test_it_passes_pytorch_s_own_checks():
    (hidden, classifier, bias), labels = drawn()
    one = torch.ones(20, dtype=hidden.dtype)
    rows = hidden.flatten(0, 1).detach().requires_grad_()
    plan = (
        labels.flatten().clamp(min=0),
        one,
        one / 10,
        one,
        None,
        labels.flatten() >= 0,
        None,
        None,
        one[0] * 3,
        None,
    )
    torch.library.opcheck(
        torch.ops.multismooth.head.default,
        (rows, classifier, bias, *plan, 6, "mean", "float32", [True, True, True]),
    )
