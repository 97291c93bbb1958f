"""The branch rule: the largest gain of weights in residual branches grows no larger than at the start."""

import copy

import pytest
import torch
from support.equalized import assert_same, snapshot
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


def sizes(model, norm="fro"):
    return {
        name: float(torch.linalg.matrix_norm(p.detach(), norm)) for name, p in model.named_parameters() if p.dim() == 2
    }


def test_weights_in_branches_keep_their_size_and_others_grow():
    model, x, report = network()
    assert report.branch_layers == tuple(f"{i}.{part}" for i in (1, 2, 3) for part in ("up", "down"))
    before, free = sizes(model), copy.deepcopy(model)
    train(free, torch.optim.Adam(free.parameters(), 0.1), x)
    assert all(sizes(free)[name] > 1.1 * size for name, size in before.items())
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with sc.Equalizer(model, optimizer, branches=report.branch_layers):
        train(model, optimizer, x)
    for name, size in sizes(model).items():
        assert size > 1.1 * before[name] if name in ("0.weight", "4.weight") else size <= before[name] * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("direction", [0, 1])
def test_the_largest_gain_goes_back_to_its_start(direction, dtype):
    weights = [nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False), nn.Conv2d(4, 5, 3, bias=False)]
    weights[2].to(memory_format=torch.channels_last)
    rule = BranchRule(nn.Sequential(*weights).to(dtype), ["0", "2"])
    before = [torch.linalg.svd(layer.weight.detach().flatten(1).float(), full_matrices=False) for layer in weights]
    with torch.no_grad():
        for layer, (u, s, v) in zip(weights, before, strict=True):
            i = slice(direction, direction + 1)
            layer.weight += (u[:, i] * (1.4 * s[0] - s[i]) @ v[i]).view_as(layer.weight)
    for _ in range(40):
        rule.hold()
    for layer, (_, s, _), held in zip(weights, before, (True, False, True), strict=True):
        found = torch.linalg.svdvals(layer.weight.detach().flatten(1).float())
        assert found[0] <= 1.02 * s[0] if held else found[0] > 1.35 * s[0]
        if held and direction == 0:  # what the weight does in other directions stays
            torch.testing.assert_close(found, s, rtol=0.02, atol=0)


def test_training_raises_the_largest_gains_of_free_weights_twice_as_much():
    model, x, report = network()
    before = sizes(model, 2)
    grown = {}
    for branches in (report.branch_layers, ()):
        trained = copy.deepcopy(model)
        optimizer = torch.optim.Adam(trained.parameters(), 0.003)
        with sc.Equalizer(trained, optimizer, branches=branches):
            train(trained, optimizer, x)
        grown[bool(branches)] = max(
            sizes(trained, 2)[f"{name}.weight"] / before[f"{name}.weight"] for name in report.branch_layers
        )
    assert grown[False] - 1 > 3 * (grown[True] - 1)


def test_weights_that_stay_small_are_not_touched():
    model, *_ = network()
    with torch.no_grad():
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        equalizer = sc.Equalizer(model, optimizer, branches="1", every=100)
        model[1].up.weight.mul_(0.5)
        model[2].up.weight.mul_(2.0)
    before = snapshot(model)
    optimizer.step()  # without gradients
    equalizer.remove()
    assert_same(model, before)


def test_a_weight_that_starts_at_0_may_grow():
    model, x, _ = network(1)
    nn.init.zeros_(model[1].down.weight)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with sc.Equalizer(model, optimizer, branches=["1.*"]):
        train(model, optimizer, x, 3)
    assert 0 < sizes(model)["1.down.weight"] < 10


def test_the_sizes_are_part_of_the_state():
    model, x, _ = network()
    before = sizes(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    state = sc.Equalizer(model, optimizer, branches="[123]").state_dict()
    with torch.no_grad():
        model[2].up.weight.mul_(5.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.0)
    equalizer = sc.Equalizer(model, optimizer, branches="[123]")
    equalizer.load_state_dict(state)
    train(model, optimizer, x, 1)
    assert sizes(model) == pytest.approx(before)
    held = equalizer.state_dict()
    with pytest.raises(ValueError, match="its history or trials are wrong"):
        equalizer.load_state_dict({**held, "trials": {"0": "no trial"}})
    assert equalizer.state_dict()["limits"] == held["limits"]
    with pytest.raises(ValueError, match="6 weights of branches and this Equalizer 0"):
        sc.Equalizer(model, optimizer).load_state_dict(state)


def test_a_model_without_cores_may_have_branches():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Block(), nn.Linear(8, 2)), torch.randn(100, 4)
    before = sizes(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="the model has no cores"):
        sc.Equalizer(model, optimizer)
    with sc.Equalizer(model, optimizer, branches="1") as equalizer:
        train(model, optimizer, x)
        equalizer.load_state_dict(equalizer.state_dict())
        train(model, optimizer, x)
    assert not equalizer.history
    assert sizes(model)["1.up.weight"] <= before["1.up.weight"] * (1 + 1e-6)
    assert sizes(model)["0.weight"] > 1.1 * before["0.weight"]


def test_a_training_goes_on_from_its_state_to_the_bit():
    model, x, report = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    equalizer = sc.Equalizer(model, optimizer, branches=report.branch_layers)
    train(model, optimizer, x)
    resumed = copy.deepcopy(model)
    again = torch.optim.SGD(resumed.parameters(), 1e-3)
    other = sc.Equalizer(resumed, again, branches=report.branch_layers)
    other.load_state_dict(copy.deepcopy(equalizer.state_dict()))
    train(model, optimizer, x)
    train(resumed, again, x)
    assert_same(model, snapshot(resumed))


def test_weights_that_are_not_finite_or_0_stay_and_spoil_no_other():
    weights = [nn.Linear(8, 8, bias=False) for _ in range(4)]
    rule = BranchRule(nn.Sequential(*weights), "*")
    with torch.no_grad():
        weights[0].weight[0, 0] = torch.nan
        weights[1].weight[0, 0] = torch.inf
        weights[2].weight.zero_()
    before = [layer.weight.detach().clone() for layer in weights]
    for _ in range(3):
        rule.hold()
    assert all(
        torch.equal(a.nan_to_num(), b.weight.detach().nan_to_num()) for a, b in zip(before, weights, strict=True)
    )


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
    limit = model[2].down.weight.detach().norm()
    train(model, optimizer, x)
    equalizer.remove()
    assert model[2].down.weight.detach().norm() <= 1.001 * limit


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
            size = model[0].weight.double().norm()
            model[0].weight.mul_(0.5)  # far below the limits of its size
            before = snapshot(model)
            put()
            optimizer.step(put if closure else None)
            return before, (model[0].weight - before["0.weight"]).double(), size

    before, change, size = step(1.0)
    assert float(change.norm() / size) == pytest.approx(0.02, rel=0.01 if dtype == torch.bfloat16 else 1e-4)
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
