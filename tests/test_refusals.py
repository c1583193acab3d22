"""What PyTorch's own losses refuse, the drop-ins refuse: with an error that is caught where the original's is."""

import pytest
from requirements import need

torch = need("torch")
from torch.nn import functional as F  # noqa: E402 torch may be missing
from torch_calls import drawn, labels  # noqa: E402

import multismooth.torch as ms  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:linear_cross_entropy")  # torch says that its own is a prototype
N, K, D = 6, 5, 4


ROWS = torch.softmax(drawn(N, K, seed=1), 1)
Z, Y, W = drawn(N, K), labels(N), torch.ones(K)
REFUSED = {
    "integer logits": ((torch.ones(N, K, dtype=torch.int64), Y), {}),
    "boolean logits": ((torch.ones(N, K, dtype=torch.bool), Y), {}),
    "complex logits": ((Z + 0j, Y), {}),
    "a list of logits": ((Z.tolist(), Y), {}),
    "a list of labels": ((Z, Y.tolist()), {}),
    "no labels": ((Z, None), {}),
    "labels of 32 bits": ((Z, Y.int()), {}),
    "labels of 8 bits": ((Z, Y.to(torch.int8)), {}),
    "boolean labels": ((Z, Y > 2), {}),
    "floating labels": ((Z, Y.float()), {}),
    "integer rows": ((Z, F.one_hot(Y, K)), {}),
    "complex rows": ((Z, F.one_hot(Y, K) + 0j), {}),
    "too few labels": ((Z, Y[:3]), {}),
    "labels of another rank": ((Z, Y[:, None]), {}),
    "labels of other images": ((drawn(2, K, 3, 3), labels(2, 3, 2)), {}),
    "a number": ((torch.tensor(1.0), torch.tensor(0)), {}),
    "a label beyond": ((Z, Y + 1), {}),
    "a label below": ((Z, Y - 1), {}),
    "an unknown reduction": ((Z, Y), {"reduction": "average"}),
    "no reduction": ((Z, Y), {"reduction": None}),
    "smoothing above 1": ((Z, Y), {"label_smoothing": 1.5}),
    "smoothing as text": ((Z, Y), {"label_smoothing": "0.1"}),
    "smoothing for each": ((Z, Y), {"label_smoothing": torch.full((N,), 0.1)}),
    "an ignored label that is no integer": ((Z, Y), {"ignore_index": 1.5}),
    "no ignored label": ((Z, Y), {"ignore_index": None}),
    "ignored probabilities": ((Z, ROWS), {"ignore_index": 2}),
    "too few weights": ((Z, Y), {"weight": W[:3]}),
    "weights of two axes": ((Z, Y), {"weight": torch.ones(N, K)}),
    "a list of weights": ((Z, Y), {"weight": [1.0] * K}),
    "weights in float64": ((Z, Y), {"weight": W.double()}),
    "integer weights": ((Z, Y), {"weight": W.long()}),
    "complex weights": ((Z, Y), {"weight": W + 0j}),
    "sparse logits": ((Z.to_sparse(), Y), {}),
    "an unknown keyword": ((Z, Y), {"smoothing": 0.1}),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("form", ["function", "module"])
def test_what_the_original_refuses(name, form):
    (logits, target), settings = REFUSED[name]
    errors = []
    for functions, modules in ((ms, ms), (F, torch.nn)):
        function, module = functions.cross_entropy, modules.CrossEntropyLoss
        calls = {"function": lambda *a, f=function: f(*a, **settings), "module": lambda *a, m=module: m(**settings)(*a)}
        with pytest.raises(Exception) as caught:  # noqa: PT011 of which type is what is compared
            calls[form](logits, target)
        errors.append(caught.value)
    ours, theirs = errors
    assert isinstance(ours, type(theirs)), (ours, theirs)
    assert not str(ours).startswith("Expected"), ours  # said by us, not by an operation inside


LAYER = {"input": drawn(N, D), "linear_weight": drawn(K, D, seed=2), "target": Y}
LAYER_REFUSED = {
    "another number of features": {"linear_weight": drawn(K, D + 1)},
    "a vector as weight": {"linear_weight": drawn(D)},
    "a bias of another size": {"linear_bias": drawn(K + 1)},
    "a weight in float64": {"linear_weight": drawn(K, D).double()},
    "a bias in float64": {"linear_bias": drawn(K).double()},
    "features of three axes": {"input": drawn(2, 3, D), "target": labels(2, 3)},
    "too few labels": {"target": Y[:3]},
    "labels of 32 bits": {"target": Y.int()},
    "a label beyond": {"target": Y + 1},
    "smoothing above 1": {"label_smoothing": 1.5},
    "an unknown reduction": {"reduction": "average"},
    "an ignored label with probabilities": {"target": ROWS, "ignore_index": 2},
}


@pytest.mark.parametrize("name", LAYER_REFUSED)
def test_what_the_original_layer_refuses(name):
    arguments = LAYER | LAYER_REFUSED[name]
    with pytest.raises((ValueError, RuntimeError, IndexError, TypeError)) as ours:
        ms.linear_cross_entropy(**arguments)
    if hasattr(F, "linear_cross_entropy"):
        with pytest.raises((ValueError, RuntimeError, IndexError, TypeError)) as theirs:
            F.linear_cross_entropy(**arguments)
        assert isinstance(ours.value, type(theirs.value)), (ours.value, theirs.value)
