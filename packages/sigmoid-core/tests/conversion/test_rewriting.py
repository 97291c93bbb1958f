"""Functional calls: torch.fx generates a forward that calls cores, and that does what the forward of the class does."""

import copy
import io
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from core_support.conversions import unchanged, why
from support.copies import COPIES
from torch import fx, nn
from torch._dynamo.testing import CompileCounter

import sigmoidcore as sc


class Functional(nn.Module):
    """Every spelling of a functional call; dropout in training, a number, a plain tensor, a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.d = nn.Linear(8, 2)
        self.temperature = 2.0
        self.factors = torch.full((8,), 0.5)
        self.register_buffer("offset", torch.ones(8))

    def forward(self, x):
        x = torch.tanh(self.a(x) / (self.temperature * 2))
        x = F.dropout(x, 0.3, training=self.training)
        x = (self.b(x) * self.factors).sigmoid() + self.offset * 2
        x = F.tanh(self.c(x))
        return torch.sigmoid(self.d(F.relu(x)))


class Net(nn.Module):
    """Two layers with a forward given as a function of the network and its input."""

    def __init__(self, run, **attributes):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 4), nn.Linear(4, 2), run
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.run(self, x)


def same_outputs(model, plain, x):
    """In training and in evaluation, with the same random numbers."""
    for training in (True, False):
        outputs = []
        for network in (model, plain):
            network.train(training)
            torch.manual_seed(3)
            outputs.append(network(x))
        assert torch.equal(*outputs)


def test_functional_calls_become_cores_and_the_module_keeps_its_class():
    model = Functional()
    report = unchanged(model, torch.randn(5, 4))
    assert report.converted == ("tanh", "sigmoid", "tanh_1")
    assert [(a.name, a.kind) for a in report.activations if not a.converted] == [
        ("relu", "relu()"),
        ("sigmoid_1", "sigmoid()"),
    ]
    assert type(model) is Functional
    assert model.tanh.num_features == 8


def test_a_rewritten_forward_reads_the_mode_tensors_and_layers_at_each_call():
    model = Functional()
    plain = copy.deepcopy(model)
    sc.convert(model)
    x = torch.randn(64, 4)
    for change in (
        lambda net: None,
        lambda net: net.offset.fill_(3.0),
        lambda net: setattr(net, "factors", torch.full((8,), 0.25)),
        lambda net: setattr(net, "d", copy.deepcopy(plain.d)),
    ):
        change(plain)
        change(model)
        same_outputs(model, plain, x)
    model.train()
    assert not torch.equal(model(x), model(x))
    same_outputs(model.double(), plain.double(), x.double())


@pytest.mark.parametrize("make_copy", COPIES)
def test_copies_and_pickles_compute_the_same_in_both_modes(make_copy):
    model = Functional()
    sc.convert(model)
    model.tanh.set_slope(3.0)
    other, x = make_copy(model), torch.randn(9, 4)
    same_outputs(other, model, x)
    before = other.eval()(x)
    model.a.weight.data.zero_()
    assert torch.equal(other(x), before)
    assert sc.convert(other).converted == ()
    assert torch.equal(other(x), before)


def test_a_checkpoint_differs_only_in_slopes_and_shifts():
    plain, model, other = Functional(), Functional(), Functional()
    sc.convert(model)
    sc.convert(other)
    model.tanh.set_slope(3.0)
    buffer, x = io.BytesIO(), torch.randn(3, 4)
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))
    same_outputs(other, model, x)
    model.load_state_dict(plain.state_dict(), strict=True)  # slopes are those of the plain activations again
    same_outputs(model, plain, x)


def test_a_converted_model_compiles_without_breaks_and_once_for_all_slopes():
    model = Functional().eval()
    sc.convert(model)
    counter, x = CompileCounter(), torch.randn(5, 4)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for slope in (None, 1.7):
        if slope:
            model.tanh.set_slope(slope)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize(("strict", "needs"), [(False, "2.7"), (True, "2.10")])
def test_a_converted_model_is_exported(strict, needs):
    if torch.__version__ < needs:
        pytest.skip("older versions do not export plain tensor attributes")
    model, x = Functional().eval(), torch.randn(3, 4)
    before = model(x)
    sc.convert(model)
    torch.testing.assert_close(torch.export.export(model, (x,), strict=strict).module()(x), before)


def test_a_converted_model_works_with_torch_func_and_second_derivatives():
    model, x = Functional().eval(), torch.randn(3, 4)
    plain = copy.deepcopy(model)
    sc.convert(model)

    def derivatives(net):
        def loss(p, one):
            return torch.func.functional_call(net, p, (one,)).sum()

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(net.named_parameters()), x)
        return gradients["a.weight"], torch.func.hessian(lambda v: net(v).sum())(x[0])

    for a, b in zip(derivatives(model), derivatives(plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("value", "read", "other"),
    [
        (None, lambda net, h: h if net.value is None else net.value(h), torch.neg),
        (True, lambda net, h: h * 2 if net.value else h, False),
        (3, lambda net, h: sum(h for _ in range(net.value)), 4),
        (2.0, lambda net, h: h / net.value, 0.5),
    ],
)
def test_a_rewritten_forward_refuses_to_run_when_an_attribute_that_it_depends_on_has_changed(value, read, other):
    class Reads(Net):
        def forward(self, x):
            return self.b(torch.tanh(self.run(self, self.a(x))))

    model, x = Reads(read, value=value, step=True), torch.randn(3, 4)
    assert unchanged(model, x).converted == ("tanh",)
    model.step = False  # which the forward does not read
    model(x)
    torch.compiler.reset()  # PyTorch compiles one function for eight classes at most
    compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, model(x), rtol=0, atol=1e-6)
    model.value = other
    with pytest.raises(RuntimeError, match=r"Reads\.value is .* Set it before convert"):
        model(x)


def test_a_forward_that_branches_on_the_mode_is_followed_in_both_modes():
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x + torch.randn_like(x) if net.training else 2 * x))))
    plain = copy.deepcopy(model)
    assert sc.convert(model).converted == ("tanh",)
    same_outputs(model, plain, torch.randn(3, 4))


def test_a_forward_that_asks_whether_a_value_is_a_tensor_goes_the_way_of_a_tensor():
    for question in (torch.is_tensor, lambda x: isinstance(x, torch.Tensor)):
        model = Net(lambda net, x, ask=question: net.b(torch.tanh(net.a(x * 2 if ask(x) else x))))
        assert unchanged(model, torch.randn(3, 4)).converted == ("tanh",)


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch.fx of older versions does not join them")
def test_tensors_in_tuples_can_be_joined_while_tracing():
    model = Net(lambda net, x: net.b(torch.tanh(net.a(torch.cat(x.chunk(2, -1)[::-1], -1)))))
    assert unchanged(model, torch.randn(3, 4)).converted == ("tanh",)


def arange_of_a_size_is_traced():
    try:
        return bool(fx.symbolic_trace(lambda x: torch.arange(x.size(1))))
    except TypeError:
        return False


@pytest.mark.skipif(not arange_of_a_size_is_traced(), reason="torch.fx of PyTorch 2.6 does not")
@pytest.mark.parametrize(
    "count", [lambda x: x.shape[1], lambda x: x.size(1), lambda x: 2 * x.size()[1] // 2, lambda x: x[0].numel()]
)
def test_functions_of_sizes_can_be_traced(count):
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x)) + torch.arange(count(x), device=x.device)))
    assert unchanged(model, torch.randn(3, 4)).converted == ("tanh",)


def test_optional_arguments_that_only_scale_keep_working():
    class Scaled(Net):
        def forward(self, x, scale=1.0):
            return self.b(torch.tanh(self.a(x * scale)))

    model, x = Scaled(None), torch.randn(3, 4)
    assert unchanged(model, x).converted == ("tanh",)
    assert torch.equal(model(x, scale=2.0), model(2 * x))


def test_a_block_inside_another_gets_its_own_forward_and_a_second_conversion_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), Functional(), nn.Linear(2, 1))
    assert unchanged(model, torch.randn(3, 4)).converted == ("1.tanh", "1.sigmoid", "1.tanh_1", "1.sigmoid_1")
    x = torch.randn(5, 4)
    before = model.eval()(x)
    report = sc.convert(model)
    assert report.converted == ()
    assert why(report, "1.tanh") == "is a core already"
    assert torch.equal(model(x), before)


def without_gradient(net, x):
    with torch.no_grad():
        h = net.a(x)
    return net.b(torch.tanh(h))


def without_autocast(net, x):
    with torch.autocast("cpu", enabled=False):
        h = net.a(x.float())
    return net.b(torch.tanh(h))


def counting(net, x):
    net.count = net.count + 1
    return net.b(torch.tanh(net.a(x)))


REFUSED = {
    "no_grad": (without_gradient, "switches gradients or autocast"),
    "autocast": (without_autocast, "switches gradients or autocast"),
    "sets an attribute": (counting, "sets attributes"),
    "random tensor": (lambda net, x: net.b(torch.tanh(net.a(x + torch.randn(4)))), "makes a tensor"),
    "random number": (lambda net, x: net.b(torch.tanh(net.a(x * random.random()))), "draws random numbers"),
    "constant": (lambda net, x: net.b(torch.tanh(net.a(x + torch.ones(4)))), "makes a tensor"),
    "other calls in training": (
        lambda net, x: net.b(torch.tanh(net.a(x)) if net.training else net.a(x)),
        "calls other activations in training",
    ),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_a_call_is_left_with_the_reason_if_a_graph_would_not_do_the_same(case, grad):
    run, reason = REFUSED[case]
    model = Net(run, count=0)
    plain, state, x = copy.deepcopy(model), random.getstate(), torch.randn(3, 4)
    torch.manual_seed(5)
    with torch.set_grad_enabled(grad):
        report = sc.convert(model)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert random.getstate() == state
    assert reason in why(report, "tanh")
    assert model.count == 0
    assert "forward" not in vars(model)
    same_outputs(model, plain, x) if case != "random number" else None
    with pytest.raises(ValueError, match="cannot be rewritten"):
        sc.convert(model.train(), include="tanh")


def test_an_optional_argument_that_changes_the_way_is_a_reason_to_leave_a_call():
    class Masked(Net):
        def forward(self, x, mask=None):
            return self.b(torch.tanh(self.a(x if mask is None else x * mask)))

    report = unchanged(Masked(None), torch.randn(3, 4))
    assert "does something else if an optional argument is given" in why(report, "tanh")


def test_modules_in_a_forward_that_cannot_be_rewritten_are_converted():
    model = Net(lambda net, x: net.b(net.act(without_gradient(net, x).repeat(1, 2))), act=nn.Tanh(), c=nn.Linear(4, 1))
    model.run = lambda net, x: net.c(net.act(without_gradient(net, x).repeat(1, 2)))
    assert sc.convert(model).converted == ("act",)


@pytest.mark.parametrize(
    ("run", "converted"),
    [
        (lambda net, x: net.b(net.a(x).tanh_()), ("tanh",)),
        (lambda net, x: (lambda h: net.b(h.tanh_() + h))(net.a(x)), ()),
        (lambda net, x: net.b(torch.sigmoid_(x)), ()),
    ],
)
def test_a_call_in_place_is_converted_only_if_nothing_else_reads_what_it_overwrites(run, converted):
    assert sc.convert(Net(run)).converted == converted


def test_a_block_that_runs_twice_is_left():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.end = Net(lambda net, x: torch.sigmoid(net.b(torch.tanh(net.a(x))))), nn.Linear(2, 1)

        def forward(self, x):
            return self.end(self.encoder(x)) - self.end(self.encoder(-x))

    report = unchanged(Twins(), torch.randn(2, 4))
    assert {a.why for a in report.activations} == {
        "is used in 2 places, which need one each: give each place its own module"
    }
    with pytest.raises(ValueError, match="is used in 2 places"):
        sc.convert(Twins(), include="encoder.*")


def test_a_taken_name_is_not_overwritten_and_a_method_called_tanh_is_not_a_call():
    class Own(Net):
        def tanh(self, x):
            return x.clamp(-1, 1)

        def forward(self, x):
            return self.b(torch.tanh(self.tanh(self.a(x))))

    model = Own(None)
    assert unchanged(model, torch.randn(2, 4)).converted == ("tanh_1",)


def test_a_sequential_and_a_graph_module_with_calls_keep_their_entries():
    class Calls(nn.Sequential):
        def forward(self, x):
            return self[1](torch.tanh(self[0](x)))

    model, x = Calls(nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(2, 4)
    assert "Calls is a container" in why(unchanged(model, x), "tanh")
    assert len(model) == 2
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Functional()).eval())
    report = unchanged(model, x)
    assert report.converted == ("1",)
    assert "GraphModule" in why(report, "tanh")
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_a_forward_set_on_the_instance_stays():
    model = Functional()
    own = model.forward = lambda x: model.d(torch.tanh(x.repeat(1, 2)))
    report = sc.convert(model)
    assert model.forward is own
    assert "set on the instance" in report.unseen[0][1]


class Reused(nn.Module):
    """One activation for two layers of different widths."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 1), nn.Tanh()

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x)))))


def test_a_module_called_several_times_gets_a_core_for_each_call_if_asked_for():
    model = Reused()
    report = unchanged(model, torch.randn(2, 3))
    assert why(report, "act") == "is used in 2 places; include= makes a core for each"
    assert unchanged(model, torch.randn(2, 3), include="act").converted == ("act", "act_1")
    assert (model.act.num_features, model.act_1.num_features) == (5, 4)
    sc.calibrate(model, torch.randn(50, 3))
    assert float(model.act.shift[0]) != float(model.act_1.shift[0])
