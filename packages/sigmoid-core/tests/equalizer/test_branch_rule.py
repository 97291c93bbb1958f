"""The branch rule: no step changes a weight in residual branches by more than 2 % of its size at the start."""

import copy

import pytest
import torch
from core_support.equalized import snapshot
from torch import nn

import sigmoidcore as sc
from sigmoidcore.equalizer.branch_rule import BranchRule


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 16), nn.RMSNorm(16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.norm(self.up(x)))


def network(blocks=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), *(Block() for _ in range(blocks)), nn.Linear(8, 2))
    sc.convert(model, norms=True)
    x = torch.randn(100, 4)
    report = sc.prepare(model, x, branches=True)
    return model, x, report


def train(model, optimizer, x, steps=20):
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 10 * x[:, :2]).square().mean().backward()
        optimizer.step()


def longest_steps(model, optimizer, x, steps=20):
    """The largest change of each matrix in a step of a training, over its size at the start."""
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    sizes, longest = {name: float(p.detach().norm()) for name, p in matrices.items()}, dict.fromkeys(matrices, 0.0)
    for _ in range(steps):
        before = snapshot(model)
        train(model, optimizer, x, 1)
        for name, p in matrices.items():
            longest[name] = max(longest[name], float((p.detach() - before[name]).norm()) / sizes[name])
    return longest


def test_steps_of_weights_in_branches_are_short_and_others_as_long_as_they_were():
    model, x, report = network()
    assert report.branch_layers == tuple(f"{i}.{part}" for i in (1, 2, 3) for part in ("up", "down"))
    free = copy.deepcopy(model)
    assert min(longest_steps(free, torch.optim.Adam(free.parameters(), 0.1), x).values()) > 0.1
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with sc.Equalizer(model, optimizer, branches=report.branch_layers):
        found = longest_steps(model, optimizer, x)
    assert min(found["0.weight"], found["4.weight"]) > 0.1
    assert max(found[f"{name}.weight"] for name in report.branch_layers) == pytest.approx(0.02, rel=1e-3)


def test_a_weight_that_starts_at_0_is_free():
    model, x, _ = network(1)
    nn.init.zeros_(model[1].down.weight)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with sc.Equalizer(model, optimizer, branches=["1.*"]):
        train(model, optimizer, x, 1)
    assert float(model[1].down.weight.detach().norm()) == pytest.approx(
        0.1 * model[1].down.weight.numel() ** 0.5, rel=0.01
    )


def test_the_limits_are_part_of_the_state():
    model, x, _ = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    state = sc.Equalizer(model, optimizer, branches="[123]").state_dict()
    with torch.no_grad():
        model[2].up.weight.mul_(5.0)
    equalizer = sc.Equalizer(model, optimizer, branches="[123]")
    assert equalizer.state_dict()["limits"] != state["limits"]
    equalizer.load_state_dict(state)
    assert longest_steps(model, optimizer, x, 1)["2.up.weight"] == pytest.approx(0.02 / 5, rel=1e-3)
    with pytest.raises(ValueError, match="its history or trials are wrong"):
        equalizer.load_state_dict({**equalizer.state_dict(), "trials": {"0": "no trial"}})
    assert equalizer.state_dict()["limits"] == state["limits"]
    with pytest.raises(ValueError, match="6 weights of branches and this Equalizer 0"):
        sc.Equalizer(model, optimizer).load_state_dict(state)


def test_a_model_without_cores_may_have_branches():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Block(), nn.Linear(8, 2)), torch.randn(100, 4)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="the model has no cores"):
        sc.Equalizer(model, optimizer)
    with sc.Equalizer(model, optimizer, branches="1") as equalizer:
        found = longest_steps(model, optimizer, x)
        equalizer.load_state_dict(equalizer.state_dict())
    assert not equalizer.history
    assert found["1.up.weight"] < 0.021 < found["0.weight"]


def test_weights_and_steps_that_are_not_finite_or_0_spoil_no_other():
    weights = [nn.Linear(8, 8, bias=False) for _ in range(5)]
    rule = BranchRule(nn.Sequential(*weights), "*")
    with torch.no_grad():
        rule.before_step()
        weights[0].weight[0, 0] = torch.nan
        weights[1].weight[0, 0] = torch.inf
        weights[2].weight.zero_()
        weights[3].weight += 1e-6
    before = [layer.weight.detach().clone() for layer in weights]
    rule.after_step()
    assert not all(layer.weight.isfinite().all() for layer in weights[:2])
    assert weights[2].weight.norm() > 1, "a step to 0 is too long"
    for changed, layer in zip(before[3:], weights[3:], strict=True):
        assert torch.equal(changed, layer.weight)


def test_a_name_without_weights_is_an_error():
    model, _, _ = network()
    with pytest.raises(ValueError, match="no module with a matrix or a kernel has the name or pattern 'blocks'"):
        sc.Equalizer(model, torch.optim.Adam(model.parameters()), branches=["blocks"])


def test_weights_on_several_devices_are_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    with pytest.raises(ValueError, match="the weights are on cpu and meta: name those of one device"):
        BranchRule(model, "*")


def test_names_of_tied_weights_and_of_a_model_before_it_was_compiled_are_understood():
    model, x, report = network()
    model[3].down.weight = model[2].down.weight
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    equalizer = sc.Equalizer(compiled, optimizer, branches=report.branch_layers)
    assert longest_steps(model, optimizer, x)["2.down.weight"] == pytest.approx(0.02, rel=1e-3)
    equalizer.remove()


@pytest.mark.parametrize("branches", [None, 5, [None], [nn.Linear(2, 2)], nn.Sequential(nn.Linear(2, 2))], ids=repr)
def test_branches_that_are_not_names_are_refused_with_where_to_find_them(branches):
    model = nn.Sequential(nn.Linear(4, 8), Block())
    with pytest.raises(TypeError, match=r"branches takes names and patterns .* has them as branch_layers"):
        sc.Equalizer(model, torch.optim.Adam(model.parameters()), branches=branches)


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_step_that_is_too_long_is_shortened_and_a_short_one_is_as_it_was(dtype, closure):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).to(dtype)
    gradients = {p: torch.randn_like(p) for p in model.parameters()}

    def put():
        for parameter, gradient in gradients.items():
            parameter.grad = gradient.clone()
        return torch.zeros(())

    def step(rate):
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with sc.Equalizer(model, optimizer, branches="0"), torch.no_grad():
            size, before = model[0].weight.double().norm(), snapshot(model)
            put()
            optimizer.step(put if closure else None)
            return before, (model[0].weight - before["0.weight"]).double(), size

    before, change, size = step(1.0)
    assert float(change.norm() / size) == pytest.approx(0.02, rel=0.03 if dtype == torch.bfloat16 else 1e-4)
    direction = -gradients[model[0].weight].double()
    assert torch.cosine_similarity(change.flatten(), direction.flatten(), 0) > 0.99
    assert (model[1].weight - before["1.weight"]).norm() > 1, "it is not in a branch"
    before, *_ = step(1e-4)
    free = nn.Parameter(before["0.weight"])
    free.grad = gradients[model[0].weight]
    torch.optim.SGD([free], 1e-4).step()
    torch.testing.assert_close(model[0].weight, free, rtol=0, atol=0)


def test_weights_that_are_changed_between_steps_are_not_put_back():
    model, x, report = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with sc.Equalizer(model, optimizer, branches=report.branch_layers):
        train(model, optimizer, x, 1)
        with torch.no_grad():
            model[1].up.weight.mul_(0.5)
        halved = model[1].up.weight.detach().clone()
        train(model, optimizer, x, 1)
    torch.testing.assert_close(model[1].up.weight.detach(), halved, rtol=0, atol=0)
