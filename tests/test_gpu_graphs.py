"""What surrounds the Triton kernels: plans in one launch, operators for a compiler, a factor known to the device alone.

A CPU interprets the kernels, a GPU compiles them.
"""

import pytest
from requirements import need

import multismooth
from multismooth import spec
from multismooth.problem import Call, Problem, Settings
from multismooth.reduction import reduced_plan

torch = need("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402 torch first

from multismooth.torch import autograd, operators  # noqa: E402 torch first
from multismooth.torch.gpu import launch, plans  # noqa: E402 torch first
from multismooth.torch.namespace import XP  # noqa: E402

# --- plans ----------------------------------------------------------------------------------------------------------


def bound(device, labels, classes=5, **settings):
    """(Problem, Settings) of a call whose labels are not checked, as on a GPU."""
    torch.manual_seed(0)
    logits, labels = torch.randn(len(labels), classes, device=device), torch.tensor(labels, device=device)
    return multismooth.torch._functions._call(logits, labels, **{"axis": 1, "validate": False} | settings)[:2]


def entries(value, count):
    return torch.as_tensor(value, dtype=torch.float64).cpu().expand(count)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [-100, 2, None])
def test_a_plan_in_one_launch_is_that_of_spec_for_every_convention(device, reduction, ignored):
    labels = [0, -100, 2, 3, 9, 1, -1, 2]  # some name no class
    tried = 0
    for convention in multismooth.conventions.values():
        needs = {convention.denominator, convention.smooth_denominator}
        normalizer = 3.0 if reduction == "mean" and "caller" in needs else None
        settings = {"convention": convention, "reduction": reduction, "normalizer": normalizer, "z_loss": 1e-3}
        problem, bound_settings = bound(device, labels, ignore_index=ignored, **settings)
        if not plans.supports(problem, bound_settings):
            continue
        found, right = plans.planned(problem, bound_settings), reduced_plan(problem, bound_settings, XP)
        for name in ("labels", "a", "b", "const", "z_loss", "u_sum", "v_sum"):
            mine, theirs = getattr(found, name), getattr(right, name)
            assert (mine is None) == (theirs is None), (convention.name, name)
            if mine is not None:
                mine, theirs = entries(mine, len(labels)), entries(theirs, len(labels))
                torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0, equal_nan=True, msg=convention.name)
        active = [True if plan.active is None else plan.active for plan in (found, right)]
        assert torch.equal(*(torch.as_tensor(x).cpu().expand(len(labels)) for x in active))
        tried += 1
    assert tried > 60


COEFFICIENTS = ("labels", "a", "b", "z_loss", "v", "v_sum", "mask", "active")


def everyday_arguments(device, count, classes):
    """Arguments that are arrays: some of each at a time, then all of them."""
    generator = torch.Generator().manual_seed(3)
    weight, each, epsilon = (torch.rand(n, generator=generator) for n in (classes, count, count))
    arrays = {"weight": weight, "sample_weight": each * (torch.arange(count) % 4), "label_smoothing": epsilon / 3}
    arrays |= {"class_mask": torch.arange(classes) != 3, "normalizer": torch.tensor(7.0)}
    arrays = {name: value.to(device) for name, value in arrays.items()}
    yield from ({name: value} for name, value in arrays.items())
    yield {"weight": arrays["weight"], "sample_weight": arrays["sample_weight"], "z_loss": 0.1}
    yield {"weight": arrays["weight"] * 0}  # a mean over no weight is NaN if any element counts
    yield arrays | {"z_loss": 0.1}


def assert_same_plan(found, right, labels, name):
    count, active = labels.numel(), right.active
    for field in COEFFICIENTS:
        mine, theirs = getattr(found, field), getattr(right, field)
        if field in ("active", "z_loss", "mask", "v"):
            mine, theirs = (({"active": True, "v": 1.0}.get(field, 0.0) if x is None else x) for x in (mine, theirs))
        if field == "v" and isinstance(theirs, float) != isinstance(mine, float):
            raise AssertionError((name, "only one of the plans has a row v"))
        mine, theirs = (torch.as_tensor(x, dtype=torch.float64).cpu().flatten() for x in (mine, theirs))
        if field not in ("v", "mask"):
            mine, theirs = mine.expand(count), theirs.expand(count)
        if field in ("a", "b", "z_loss") and active is not None:  # elsewhere they are multiplied by nothing
            mine, theirs = mine * active.cpu(), theirs.where(active.cpu(), 0.0)
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-9, equal_nan=True, msg=f"{name} {field}")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_plan_from_arrays_is_that_of_spec_for_every_convention(device, reduction):
    labels, tried = torch.tensor([0, -100, 2, 4, 9, 1, -1, 3]), 0
    kinds = {
        (c.spread, c.smoothing_map, c.ignore_scope, c.class_weights, c.denominator, c.denominator_floor, c.scale): c
        for c in multismooth.conventions.values()
    }
    for convention in kinds.values():
        for arrays in everyday_arguments(device, 8, 5):
            settings = {"convention": convention, "reduction": reduction} | arrays
            if reduction == "sum":
                settings.pop("normalizer", None)
            elif convention.denominator == "caller":
                settings.setdefault("normalizer", 3.0)
            problem, bound_settings = bound(device, labels.tolist(), **settings)
            if plans.supports_arrays(problem, bound_settings):
                found, right = (
                    plans.planned_from_arrays(problem, bound_settings),
                    reduced_plan(problem, bound_settings, XP),
                )
                assert_same_plan(found, right, labels, (convention.name, list(arrays)))
                tried += 1
    assert tried > 80


def test_many_elements_take_two_launches_and_give_the_same_plan(device, monkeypatch):
    labels = torch.arange(3 * plans.BLOCK + 7) % 6 - 1
    arguments = list(everyday_arguments(device, labels.numel(), 5))
    for arrays in (arguments[0], arguments[-1], {}):
        problem, settings = bound(device, labels.tolist(), ignore_index=-1, **arrays)
        right = plans.planned_from_arrays(problem, settings)
        with monkeypatch.context() as patch:
            patch.setattr(plans, "MAX_ELEMENTS_IN_ONE_LAUNCH", 100)
            found = plans.planned_from_arrays(problem, settings)
        assert_same_plan(found, right, labels, list(arrays))
        assert_same_plan(found, reduced_plan(problem, settings, XP), labels, list(arrays))


def test_calls_that_say_more_are_planned_by_spec(device):
    labels, weight = [0, 1, 2, -100], torch.ones(5, device=device)
    assert plans.supports(*bound(device, labels))
    assert plans.supports(*bound(device, labels, normalizer=7.0))
    assert plans.supports(*bound(device, labels, convention="liger", z_loss=0.1))  # no weights, so one denominator
    apart = multismooth.Convention(z_loss_denominator="all")
    assert plans.supports(*bound(device, labels, convention=apart))
    arrays = (
        {"weight": weight},
        {"class_mask": weight > 0},
        {"sample_weight": torch.ones(4, device=device)},
        {"label_smoothing": torch.tensor(0.1, device=device)},
        {"normalizer": torch.tensor(7.0, device=device)},
    )
    others = (
        {"prior": weight / 5},
        {"convention": multismooth.Convention(exclude=(1,))},
        {"convention": apart, "z_loss": 0.1},
        {"convention": multismooth.Convention(objective="kl"), "weight": weight},
        {"class_mask": torch.ones(4, 5, dtype=torch.bool, device=device)},
        {"z_loss": torch.tensor(0.1, device=device)},
        {"sample_weight": torch.ones(4, 2, device=device)[:, 0]},
    )
    for more in (*arrays, *others):
        call = bound(device, labels, **more)
        assert not plans.supports(*call), more
        assert plans.supports_arrays(*call) == any(more is one for one in arrays), more


def test_a_mean_over_nothing_and_many_elements(device):
    found = plans.planned(*bound(device, [-100, -100]))
    assert not found.a.any()
    assert not found.b.any()
    labels = [k % 5 if k % 3 else -100 for k in range(3 * plans.ELEMENTS_AT_A_TIME + 7)]
    problem, settings = bound(device, labels)
    found, right = plans.planned(problem, settings), reduced_plan(problem, settings, XP)
    torch.testing.assert_close(found.a, right.a, rtol=1e-6, atol=0)
    assert torch.equal(found.labels, right.labels)


def test_the_loss_is_planned_this_way(device, monkeypatch):
    calls, planned = [], plans.planned
    monkeypatch.setattr(plans, "planned", lambda *call: calls.append(call) or planned(*call))
    problem, settings = bound(device, [0, 1, 4, -100])
    with multismooth.implementation("triton"):
        loss = autograd.loss(Call(problem, settings))
    assert len(calls) == 1
    expected = torch.nn.functional.cross_entropy(problem.logits, problem.targets, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


class NothingFromTheHost(TorchFunctionMode):
    """Fails where a tensor is made of values of the host. A device waits for their copy, and no graph captures it."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)

    def __torch_function__(self, function, types, arguments=(), options=None):
        assert function not in self.MAKERS, arguments
        return function(*arguments, **(options or {}))


def test_no_plan_of_any_convention_is_copied_from_the_host():
    labels = torch.empty(4, dtype=torch.long, device="meta")
    logits, weight, each = (torch.empty(*shape, device="meta") for shape in ((4, 9), (9,), (4,)))
    for convention in (*multismooth.conventions.values(), multismooth.Convention(exclude=(1, 7))):
        settings = Settings(convention, 1)
        for more in ({}, {"weight": weight, "sample_weight": each, "z_loss": 0.1}, {"class_mask": weight > 0}):
            with NothingFromTheHost():
                plan = reduced_plan(Problem(logits, labels, 0.1, normalizer=7.0, **more), settings, XP)
            assert {x.device.type for x in plan if isinstance(x, torch.Tensor)} == {"meta"}, convention.name


# --- operators ------------------------------------------------------------------------------------------------------


def plan_for(labels, dtype, device):
    """A plan with a number, arrays, and an element whose logits do not count."""
    count = labels.numel()
    a = torch.linspace(0.5, 0.9, count, dtype=dtype, device=device)
    active = torch.arange(count, device=device) != 1
    return spec.Plan(labels, a=a, b=0.1, z_loss=1e-3, active=active)


def by_spec(logits, plan):
    return spec.losses(logits, plan, 1, XP)


def drawn(device, classes=7, dtype=torch.float64):
    torch.manual_seed(0)
    logits = torch.randn(4, classes, dtype=dtype, device=device, requires_grad=True)
    return logits, torch.tensor([0, 1, classes - 1, 3], device=device)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("feature", ["plain", "mask and shares", "const"])
def test_an_operator_has_the_losses_and_gradients_of_spec(device, mode, feature):
    logits, labels = drawn(device)
    shares = torch.linspace(0.1, 0.2, 7, dtype=logits.dtype, device=device).view(1, 7)
    mask = (torch.arange(7, device=device) != 2).view(1, 7)
    plan = plan_for(labels, logits.dtype, device)
    if feature == "mask and shares":
        plan = plan._replace(v=shares * mask, v_sum=(shares * mask).sum(1), mask=mask)
    elif feature == "const":
        plan = plan._replace(const=plan.a * 2, active=None, z_loss=None)

    def call(logits):
        return operators.elements(1, logits, plan)

    if mode == "compiled":
        torch._dynamo.reset()
        call = torch.compile(call, backend="aot_eager", fullgraph=True)
    upstream = torch.rand(4, dtype=logits.dtype, device=device)
    for mine, theirs in zip(*((f(logits), *torch.autograd.grad(f(logits), logits, upstream))
                              for f in (call, lambda z: by_spec(z, plan))), strict=True):  # fmt: skip
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_compiled_graph_holds_the_operators_and_nothing_breaks_it(device):
    logits, labels = drawn(device)
    plan, seen = plan_for(labels, logits.dtype, device), []

    def backend(graph, _):
        seen.append({node.target for node in graph.graph.nodes})
        return graph

    torch._dynamo.reset()
    torch.compile(lambda z: operators.elements(1, z, plan), backend=backend, fullgraph=True)(logits)
    assert len(seen) == 1
    assert torch.ops.multismooth.losses.default in seen[0]


def test_operators_pass_pytorch_s_own_checks(device):
    logits, labels = drawn(device)
    a = torch.linspace(0.5, 0.9, 4, dtype=logits.dtype, device=device)
    b, v_sum = (torch.full((), x, dtype=logits.dtype, device=device) for x in (0.1, 1.0))
    arguments = (logits, labels, a, b, v_sum, None, labels != 1, None, None, 3 * v_sum, 1)
    torch.library.opcheck(torch.ops.multismooth.losses.default, arguments)
    peaks, totals = torch.ops.multismooth.losses(*arguments)[1:]
    upstream = torch.rand(4, dtype=logits.dtype, device=device)
    more = (*arguments, peaks.detach(), totals.detach(), upstream.requires_grad_())
    torch.library.opcheck(torch.ops.multismooth.logits_gradient.default, more)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_second_derivatives_are_those_of_spec(device, softcap):
    logits, labels = drawn(device, classes=4)
    logits, labels = logits[:3].detach().requires_grad_(), labels[:3]  # the checks launch a kernel for each of them
    plan = plan_for(labels, logits.dtype, device)._replace(softcap=softcap)
    assert torch.autograd.gradcheck(lambda z: operators.elements(1, z, plan).sum(), logits)
    assert torch.autograd.gradgradcheck(lambda z: operators.elements(1, z, plan).sum(), logits)
    assert torch.autograd.gradgradcheck(lambda z: operators.elements(1, z, plan), logits)


def test_soft_rows_stay_with_spec(device):
    logits, labels = drawn(device)
    u = torch.softmax(torch.randn(4, 7, dtype=logits.dtype, device=device), 1)
    plan = plan_for(labels, logits.dtype, device)._replace(labels=None, u=u, active=None)
    torch.testing.assert_close(operators.elements(1, logits, plan), by_spec(logits, plan), rtol=0, atol=0)


@pytest.mark.cuda
def test_on_a_gpu_the_compiler_gets_operators():
    seen, (logits, labels) = [], drawn("cuda", dtype=torch.float32)

    def backend(graph, _):
        seen.append({node.target for node in graph.graph.nodes})
        return graph

    torch._dynamo.reset()
    loss = torch.compile(multismooth.torch.loss, backend=backend, fullgraph=True)(logits, labels)
    assert torch.ops.multismooth.losses.default in seen[0]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))


# --- a factor on the device -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 0.25, -3.0])
def test_a_gradient_is_multiplied_in_place(device, dtype, factor):
    torch.manual_seed(0)
    for memory in (torch.randn(3, 5000, dtype=dtype, device=device), torch.randn(70, 9, dtype=dtype, device=device).T):
        expected = memory * factor
        found = launch.rescaled_(memory, torch.tensor(factor, device=device))
        assert found is memory
        torch.testing.assert_close(memory, expected, rtol=0, atol=0)


def test_what_is_beside_a_gradient_is_not_multiplied(device):
    memory = torch.ones(20, 30, device=device)
    launch.rescaled_(memory[:10, ::2], torch.tensor(2.0, device=device))
    assert memory.sum() == 600 + 150


def test_per_element_losses_keep_two_numbers_and_take_any_upstream_gradient(device, monkeypatch):
    calls = []

    def watched(name, function):
        return lambda *arguments, **options: calls.append(name) or function(*arguments, **options)

    for name in ("losses", "gradient", "losses_and_gradient"):
        monkeypatch.setattr(launch, name, watched(name, getattr(launch, name)))
    logits, labels = drawn(device, dtype=torch.float32)
    upstream = torch.rand(4, device=device)
    with multismooth.implementation("triton"):
        loss = multismooth.torch.loss(logits, labels, reduction="none")
        first = torch.autograd.grad(loss, logits, upstream, retain_graph=True)[0]
        again = torch.autograd.grad(loss, logits, upstream)[0]
    assert calls == ["losses", "gradient", "gradient"]
    assert torch.equal(first, again)
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(first, torch.autograd.grad(theirs, logits, upstream)[0])
