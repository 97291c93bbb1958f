"""fold with models of users: forwards, hooks, recurrent layers, converted models, and what is refused."""

import copy
import math
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from core_support.folds import (
    Functional,
    One,
    Random,
    Reusing,
    assert_computes_the_same,
    assert_folds,
    assert_same,
    core,
    kept,
    randomized,
    unsettled,
)
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sigmoidcore as sc
from sigmoidcore import SigmoidCore
from sigmoidcore.conversion.tracing import UntraceableError
from sigmoidcore.integrations.physics import PhysicsMLP


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), core(4), nn.Linear(4, 4)
        self.c, self.act2 = nn.Linear(4, 4), core(4)

    def forward(self, x, mask=None, early=False):
        h = self.act(self.a(x))
        if early:
            return self.b(h)
        if mask is not None:
            h = h * mask
        h = self.act2(self.c(h))
        return self.b(h) if self.training else (self.b(h), h)


def test_a_branch_that_is_taken_in_one_way_only_counts():
    model = Optional()
    folded = sc.fold(model)
    assert kept(folded) == {"act": ["factor"], "act2": ["factor"]}
    x, mask = torch.randn(3, 4), torch.rand(3, 4)
    for training in (True, False):
        model.train(training), folded.train(training)
        for given in ({}, {"mask": mask}, {"early": True}):
            assert_same(folded(x, **given), model(x, **given), 1e-6)


def test_a_model_that_stores_its_activations_is_not_disturbed():
    def run(net, x):
        net.last = net.a(x)
        return net.b(net.act(net.last))

    model = One(run, a=nn.Linear(4, 4), act=core(4), b=nn.Linear(4, 2))
    folded = sc.fold(model)
    assert not hasattr(model, "last")
    assert not hasattr(folded, "last")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.a(-x)


def test_a_module_without_cores_need_not_be_traceable():
    inner = Branching()
    model = nn.Sequential(nn.Linear(4, 4), core(4), nn.Linear(4, 4), inner, core(4), nn.Linear(4, 2))
    assert_folds(model, torch.randn(3, 4), stays={"4": ["gain", "shift"]})
    model = nn.Sequential(inner.a, core(4), inner, nn.Linear(4, 2))  # its layer is also called from outside
    assert_folds(model, torch.randn(3, 4), stays={"1": ["factor", "gain", "shift"]})


def test_an_untraceable_model_is_refused_and_its_parts_can_be_folded():
    class Outer(Branching):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), core(4), nn.Linear(4, 4))
            self.more = nn.ModuleList([core(4)])

        def forward(self, x):
            h = self.net(super().forward(x))
            return self.more[0](h)

    model = Outer()
    with pytest.raises(UntraceableError, match=r"Outer cannot be traced .* fold the parts .* by themselves"):
        sc.fold(model)
    x = torch.randn(3, 4)
    expected = model(x)
    for part in ("net", "more.0"):
        model.set_submodule(part, sc.fold(model.get_submodule(part)))
    assert_same(model(x), expected, 1e-6)
    assert all(not isinstance(m, SigmoidCore) for m in model.modules())


class Squared(SigmoidCore):
    def forward(self, x):
        return super().forward(x) ** 2


def chain(act=None):
    return nn.Sequential(nn.Linear(4, 4), core(4) if act is None else act)


def in_a_list():
    model = One(lambda net, x: net.b(net.order[1](net.order[0](x))), a=nn.Linear(4, 4), act=core(4), b=nn.Linear(4, 2))
    model.order = [model.a, model.act]
    return model


def with_own_forward():
    model = chain()
    model.forward = lambda x: x
    return model


def with_slope(value):
    model = chain()
    model[1].slope[2] = value
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (in_a_list, r"an attribute that is not a submodule.*nn\.ModuleList"),
        (with_own_forward, "set on the instance"),
        (lambda: chain(Squared(4)), "'1' is a Squared with its own forward"),
        (lambda: torch.compile(chain(), backend="eager"), r"compiled: fold model\._orig_mod"),
        (lambda: chain().to("meta"), "the slope of core '1' is on the meta device"),
        (lambda: chain(SigmoidCore(4, alpha=1e8)).half(), r"the folded weight of '0' does not fit torch\.float16"),
        *((partial(with_slope, v), rf"the slope of core '1' is {v} in 1 of 4 places") for v in (math.nan, math.inf)),
    ],
)
def test_a_model_that_cannot_become_plain_is_refused_with_the_reason(make, message):
    with pytest.raises(ValueError, match=message):
        sc.fold(make())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_keeps_its_dtype_and_differs_by_rounding_only(dtype):
    wide = nn.Sequential(core(4), nn.Linear(4, 5), core(5), nn.Linear(5, 2))
    model = copy.deepcopy(wide).to(dtype)
    folded = sc.fold(model)
    x = torch.randn(64, 4).to(dtype)
    assert {p.dtype for p in folded.parameters()} == {dtype}
    assert folded(x).dtype == dtype
    exact = wide(x.float())
    error, own = ((net(x).float() - exact).abs().max().item() for net in (folded, model))
    assert error < 3 * own + 1e-3


def test_a_saved_model_loads_where_sigmoidcore_cannot_be_imported(tmp_path: Path):
    waves = PhysicsMLP(5, 6, 3, 2).network
    model = nn.Sequential(core(4), nn.Linear(4, 5), core(5), nn.LayerNorm(5), waves, core(2))
    x = torch.randn(3, 4)
    folded = sc.fold(model)
    assert_same(folded(x), model(x), 1e-6)
    torch.save((folded, x, folded(x)), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['sigmoidcore'] = None\n"
        "model, x, y = torch.load(sys.argv[1], weights_only=False)\n"
        "assert torch.equal(model(x), y)\n"
        "print('same', sorted(m for m in sys.modules if m.startswith('sigmoidcore')))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.pt")], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "same ['sigmoidcore']"


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("kind", "batch"), [("Conv", False), ("ConvTranspose", True)])
def test_a_convolution_takes_in_the_slopes_of_a_converted_activation_with_and_without_a_batch(dims, kind, batch):
    conv, pool = getattr(nn, f"{kind}{dims}d"), getattr(nn, f"AvgPool{dims}d")
    model = nn.Sequential(conv(2, 6, 3), nn.Tanh(), conv(6, 4, 1), pool(2), nn.Sigmoid(), conv(4, 1, 1))
    x = torch.randn(3, 2, *[7] * dims)
    sc.convert(model)
    assert (model[1].dim, model[4].num_features) == (-1 - dims, 4)
    assert_folds(unsettled(model), x if batch else x[0])


@pytest.mark.parametrize("made", [Functional, Reusing, lambda: nn.Sequential(Functional(), nn.Tanh(), nn.Linear(2, 1))])
def test_a_converted_model_folds_to_the_plain_one_with_the_forward_of_its_class(made):
    plain = made()
    model = copy.deepcopy(plain)
    report = sc.convert(model, include="act" if isinstance(plain, Reusing) else None)
    assert len(report.converted) >= 2
    x = torch.randn(9, 4)
    for settle in (lambda m: m, unsettled):
        folded = assert_folds(settle(model).float(), x)
        assert all("forward" not in m.__dict__ for m in folded.modules())
        assert [type(m) for m in folded.modules()] == [type(m) for m in plain.modules()]
        plain.load_state_dict(folded.state_dict(), strict=True)
        assert torch.equal(plain.eval()(x), folded.eval()(x))
        assert_same(plain(x), model.eval()(x), 1e-5)


class Skipping(Functional):
    """What the tanh reads is read by the sum, too, so slope and shift stay."""

    def __init__(self):
        super().__init__()
        self.rate = 0.3
        self.register_buffer("offset", torch.ones(8), persistent=False)

    def forward(self, x):
        h = self.a(x)
        return self.d(F.dropout(torch.tanh(h), self.rate, self.training) + h + self.offset)


@pytest.mark.parametrize("whole", [True, False])
def test_where_a_constant_of_a_call_stays_a_graph_module_has_the_forward_in_evaluation(whole):
    model = Skipping() if whole else nn.Sequential(Skipping(), nn.Tanh(), nn.Linear(2, 1))
    sc.convert(model)
    assert not kept(sc.fold(model))
    unsettled(model)
    with pytest.raises(ValueError, match=r"\(Skipping\).* call model\.eval\(\) before fold"):
        sc.fold(model.train())
    folded, x = sc.fold(model.eval()), torch.randn(9, 4)
    part = folded if whole else folded[0]
    assert isinstance(part, fx.GraphModule)
    assert sorted(dict(part.tanh.named_buffers())) == ["gain", "shift"]
    assert b"sigmoidcore" not in pickle.dumps(folded)
    for plain in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert all(not type(m).__module__.startswith("sigmoidcore") for m in plain.modules())
        assert_same(plain(x), model(x), 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_compute_the_same(seed):
    model = randomized(Random(seed)).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    assert_computes_the_same(model, sc.fold, x)


def doubles(module, args, result):
    return result * 2


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_a_core_with_hooks_keeps_its_constants_and_its_hooks(act):
    model = nn.Sequential(nn.Linear(4, 4), act(), nn.Linear(4, 2))
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model[1].register_forward_hook(doubles)
    sc.convert(model)
    unsettled(model)
    folded, x = sc.fold(model), torch.randn(5, 4)
    assert_same(folded(x), model(x), 1e-5)
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    "compute", [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), torch.nn.utils.weight_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_weight_that_was_computed_with_gradients_is_named_with_the_remedy(compute):
    model = nn.Sequential(nn.Linear(4, 4), core(4), nn.Linear(4, 2))
    compute(model[0])
    x = torch.randn(3, 4)
    model(x)
    with pytest.raises(ValueError, match=r"computed with gradients.*torch\.no_grad"):
        sc.fold(model)
    with torch.no_grad():
        model(x)
    assert_same(sc.fold(model)(x), model(x), 1e-5)
