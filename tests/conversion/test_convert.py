"""convert: the function stays bit for bit; hidden activations become cores, all others are left with a reason."""

import copy
import dataclasses
import inspect
import io
import logging
import pickle
import types
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conversions import unchanged, why
from support.copies import COPIES
from torch import nn
from torch._dynamo.testing import CompileCounter

import sigmoidcore as sc
from sigmoidcore import SigmoidCore


def cores(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}


# --- modules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_hidden_sigmoids_and_tanhs_become_cores_and_the_output_is_left(dtype):
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1), nn.Sigmoid()
    ).to(dtype)
    report = unchanged(model, torch.randn(5, 4, dtype=dtype))
    assert report.converted == ("1", "3")
    assert report.left == ("6",)
    assert why(report, "6") == "its result reaches the model's output"
    assert report.changed == report.unseen == ()
    assert model[1].extra_repr() == "8"
    assert model[3].extra_repr() == "6, centered=True, scale=2"
    assert model[1].slope.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from(["Linear", "Sigmoid", "Tanh", "ReLU", "LayerNorm", "Dropout", "nested", "residual"]),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_any_chain_computes_the_same_and_only_activations_before_the_last_weights_are_converted(kinds, double):
    def layer(kind):
        if kind == "nested":
            return nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid())
        if kind == "residual":
            return Residual(nn.Linear(4, 4), nn.Tanh())
        sizes = {"Linear": (4, 4), "LayerNorm": (4,)}
        return getattr(nn, kind)(*sizes.get(kind, ()))

    model = nn.Sequential(*(layer(kind) for kind in kinds))
    x = torch.randn(3, 4)
    if double:
        model, x = model.double(), x.double()
    report = unchanged(model, x.requires_grad_())
    names = [n for n, m in model.named_modules() if not list(m.children())]
    weighted = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    last = names.index(weighted[-1]) if weighted else -1
    if "residual" in kinds and kinds[-1] != "Linear":
        return  # what a residual sum carries past the last weights has no place in a list of names
    expected = {a.name for a in report.activations if a.kind in ("Sigmoid", "Tanh") and names.index(a.name) < last}
    assert set(report.converted) == expected


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


def test_every_activation_is_in_the_report_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.GELU(), nn.LSTM(3, 3))
    report = sc.convert(model)
    assert [(a.name, a.kind, a.converted, a.why) for a in report.activations] == [
        ("1", "ReLU", False, "is no sigmoid"),
        ("3", "GELU", False, "is no sigmoid"),
        ("4", "LSTM", True, "a slope for every gate row"),
    ]


@pytest.mark.parametrize(
    ("layers", "shape", "features", "dim"),
    [
        ([nn.Conv1d(2, 5, 3)], (3, 2, 9), 5, -2),
        ([nn.Conv2d(2, 4, 3, stride=2, groups=2, dilation=2, padding_mode="circular", padding=1)], (3, 2, 9, 9), 4, -3),
        ([nn.Conv3d(1, 5, 2)], (3, 1, 4, 4, 4), 5, -4),
        ([nn.ConvTranspose2d(2, 5, 3)], (3, 2, 4, 4), 5, -3),
        ([nn.Conv2d(2, 5, 3)], (2, 9, 9), 5, -3),
        ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)], (3, 2, 9, 9), 5, 1),
        ([nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6)], (3, 2, 9, 9), 6, 1),
        ([nn.Conv2d(2, 5, 3), nn.MaxPool2d(2), nn.Dropout2d()], (3, 2, 9, 9), 5, -3),
        ([nn.Linear(4, 5), nn.LayerNorm(5)], (3, 7, 4), 5, -1),
        ([nn.Linear(4, 5), nn.ReLU(), nn.Identity()], (3, 4), 5, -1),
        ([nn.Conv2d(2, 5, 3), nn.Flatten()], (3, 2, 4, 4), None, -1),
        ([nn.Linear(4, 6), nn.Unflatten(-1, (2, 3))], (3, 4), None, -1),
        ([nn.Linear(4, 6), nn.MaxPool1d(2)], (3, 4), None, -1),
        ([nn.Linear(4, 6), nn.BatchNorm1d(6), nn.AvgPool1d(2)], (3, 4), None, -1),
        ([nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.MaxPool1d(2)], (3, 2, 9), 5, 1),
        ([nn.Conv1d(2, 3, 3), nn.Flatten(), nn.BatchNorm1d(9), nn.MaxPool1d(3)], (3, 2, 5), None, -1),
        ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)], (3, 2, 9, 9), 5, 1),
        ([nn.Conv1d(2, 5, 3), nn.MaxPool1d(2)], (2, 9), 5, -2),
        ([nn.Conv1d(2, 4, 3), nn.MaxPool2d(2)], (3, 2, 9), None, -1),
    ],
)
def test_the_producing_layer_gives_the_number_of_features(layers, shape, features, dim):
    class Ends(nn.Module):
        """A layer of its own after the activation, whatever the shape is."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*layers, nn.Tanh())
            self.end = nn.Linear(1, 1)

        def forward(self, x):
            return self.end(self.body(x).unsqueeze(-1))

    model = Ends()
    unchanged(model, torch.randn(shape))
    core = model.body[-1]
    assert isinstance(core, SigmoidCore)
    assert (core.num_features, core.dim) == (features, dim)


def test_a_sum_that_broadcasts_has_no_number_of_features_whichever_way_it_is_written():
    class Sum(nn.Module):
        def __init__(self, add):
            super().__init__()
            self.a, self.row, self.b, self.add = nn.Linear(4, 1), nn.Parameter(torch.randn(8)), nn.Linear(8, 2), add

        def forward(self, x):
            return self.b(torch.tanh(self.add(self.a(x), self.row)))

    for add in (torch.add, lambda a, b: torch.add(a, other=b), lambda a, b: torch.sub(input=a, other=b)):
        model = Sum(add)
        unchanged(model, torch.randn(3, 4))
        assert model.tanh.num_features is None


def test_an_activation_that_is_called_with_the_name_of_its_argument_becomes_a_core_that_is_measured():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.act(input=self.a(x)))

    model, x = Named(), torch.randn(30, 4)
    assert unchanged(model, x).converted == ("act",)
    sc.prepare(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with sc.Equalizer(model, optimizer) as equalizer:
        model(x).sum().backward()
        optimizer.step()
    assert len(equalizer.history) == 1


@pytest.mark.parametrize("rule", [lambda s, x: torch.where(s > 0.5, x, 0.0 * x), lambda s, x: x * torch.round(s)])
def test_a_hard_gate_is_left(rule):
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.gate, self.b = nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(rule(self.gate(self.a(x)), x))

    report = unchanged(Hard(), torch.randn(5, 4))
    assert why(report, "gate") == "its result is compared or rounded, and no gradient comes back"


def test_converting_twice_changes_nothing_more_even_after_training():
    model = Functional()
    sc.convert(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
    model.eval().tanh.set_slope(1.5)
    x, names = torch.randn(5, 4), list(model.state_dict())
    before = model(x)
    report = sc.convert(model)
    assert report.converted == ()
    assert why(report, "tanh") == "is a core already"
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), before)


def test_mode_device_hooks_and_requires_grad_stay():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).eval()
    model[0].weight.requires_grad_(False)
    seen = []
    handle = model[1].register_forward_hook(lambda m, a, y: seen.append(type(m)))
    sc.convert(model)
    model(torch.randn(2, 3))
    assert seen == [SigmoidCore]
    handle.remove()
    model(torch.randn(2, 3))
    assert len(seen) == 1
    assert not any(m.training for m in model.modules())
    assert not model[0].weight.requires_grad
    meta = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to("meta")
    sc.convert(meta)
    assert meta[1].slope.is_meta
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("1.")}
    loaded = meta.to_empty(device="cpu")
    loaded.load_state_dict(state, strict=True)
    x = torch.randn(2, 3)
    assert torch.equal(loaded(x), model(x))


# --- functional calls ----------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """Each way to call a function; dropout in training, a number that may change, a buffer that counts nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.d = nn.Linear(8, 2)
        self.temperature = 2.0

    def forward(self, x):
        x = torch.tanh(self.a(x) / self.temperature)
        x = F.dropout(x, 0.3, training=self.training)
        x = self.b(x).sigmoid()
        x = F.tanh(self.c(x))
        return torch.sigmoid(self.d(F.relu(x)))


def test_functional_calls_become_cores_and_the_module_keeps_its_class_and_signature():
    model = Functional()
    signature = inspect.signature(model.forward)
    report = unchanged(model, torch.randn(5, 4))
    assert report.converted == ("tanh", "sigmoid", "tanh_1")
    assert [(a.name, a.kind) for a in report.activations if not a.converted] == [
        ("relu", "relu()"),
        ("sigmoid_1", "sigmoid()"),
    ]
    assert type(model) is Functional
    assert inspect.signature(model.forward) == signature
    assert model.tanh.num_features == 8


def test_a_rewritten_forward_still_reads_training_and_numbers_at_each_call():
    model = Functional()
    plain = copy.deepcopy(model)
    sc.convert(model)
    x = torch.randn(64, 4)
    for training in (True, False):
        for temperature in (2.0, 0.5):
            outputs = []
            for network in (plain, model):
                network.train(training)
                network.temperature = temperature
                torch.manual_seed(3)
                outputs.append(network(x))
            assert torch.equal(*outputs)
    model.train()
    assert not torch.equal(model(x), model(x))


def test_a_rewritten_forward_refuses_to_run_when_what_it_was_written_for_has_changed():
    class Net(Functional):
        def __init__(self):
            super().__init__()
            self.transform = None

        def forward(self, x):
            return super().forward(x if self.transform is None else self.transform(x))

    model = Net()
    sc.convert(model)
    model(torch.randn(2, 4))
    model.transform = torch.neg
    with pytest.raises(RuntimeError, match=r"Net\.transform is .*neg.* for None: set it before convert"):
        model(torch.randn(2, 4))
    sc.convert(copy.deepcopy(model))  # it may be converted again, but not be tricked by that
    with pytest.raises(RuntimeError, match="transform"):
        model(torch.randn(2, 4))


class Reads(nn.Module):
    """Reads something of its own in a forward that is written anew."""

    def __init__(self, own, read):
        super().__init__()
        self.a, self.b, self.own, self.read = nn.Linear(4, 4), nn.Linear(4, 2), own, read

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)) * self.read(self.own))


class Config:
    def __init__(self):
        self.factor, self.inner, self.calls = 2.0, types.SimpleNamespace(factor=2.0), 0

    @property
    def doubled(self):
        return self.factor * 2


@dataclasses.dataclass(slots=True)
class Slotted:
    factor: float = 2.0


OWN = {
    "list": (lambda: [1.0, 2.0], lambda o: o[1], lambda o: o.__setitem__(1, 5.0), r"own\[1\] is 5.0.* for 2.0"),
    "nested": (lambda: {"k": [2.0]}, lambda o: o["k"][0], lambda o: o["k"].append(5.0), r"own\['k'\]\[1\] is 5.0"),
    "namespace": (lambda: types.SimpleNamespace(k=2.0), lambda o: o.k, lambda o: setattr(o, "k", 5.0), r"own\.k is 5"),
    "object": (Config, lambda o: o.factor, lambda o: setattr(o, "factor", 5.0), r"Config\.factor is 5.0"),
    "property": (Config, lambda o: o.doubled, lambda o: setattr(o, "factor", 5.0), r"Config\.factor is 5.0"),
    "inner": (Config, lambda o: o.inner.factor, lambda o: setattr(o.inner, "factor", 5.0), r"inner\.factor is 5.0"),
    "in a list": (lambda: [Config()], lambda o: o[0].factor, lambda o: setattr(o[0], "factor", 5.0), r"factor is 5"),
    "slots": (Slotted, lambda o: o.factor, lambda o: setattr(o, "factor", 5.0), r"own\.factor is 5.0"),
    "array": (lambda: np.ones(2), lambda o: float(o[1]), lambda o: o.__setitem__(1, 5.0), "own is"),
}


@pytest.mark.parametrize("make_copy", [lambda m: m, *COPIES[:1]])
@pytest.mark.parametrize("own", OWN)
def test_a_rewritten_forward_refuses_to_run_when_what_is_in_its_attributes_has_changed(own, make_copy):
    make, read, change, message = OWN[own]
    model = Reads(make(), read)
    assert unchanged(model, torch.randn(3, 4)).converted == ("tanh",)
    model = make_copy(model)
    model(torch.randn(3, 4))
    change(model.own)
    with pytest.raises(RuntimeError, match=message):
        model(torch.randn(3, 4))


def test_what_a_rewritten_forward_does_not_read_may_change():
    model = Reads(Config(), lambda own: own.factor)
    assert type(model.own) is Config
    sc.convert(model)
    assert type(model.own) is Config
    model.own.calls += 1
    model(torch.randn(3, 4))


OWNER = Config()


def test_tools_of_python_that_a_module_holds_are_no_data_of_it():
    class Logs(Functional):
        def __init__(self):
            super().__init__()
            self.logger = logging.getLogger("a test of convert")
            self.owner = weakref.proxy(OWNER)

        def forward(self, x):
            self.logger.debug("forward")
            return super().forward(x)

    assert "tanh" in sc.convert(Logs()).converted


def test_a_value_that_the_class_has_for_all_is_fixed_as_well():
    class Scaled(Functional):
        scale = 2.0

        def forward(self, x):
            return super().forward(x * self.scale)

    model = Scaled()
    assert "tanh" in sc.convert(model).converted
    model.scale = 3.0
    with pytest.raises(RuntimeError, match=r"Scaled\.scale is 3.0.* for 2.0"):
        model(torch.randn(2, 4))


def test_a_list_of_very_many_entries_is_not_compared_at_each_call():
    model = Reads([1.0] * 5000, lambda own: own[7])
    assert "'own', which has too many entries" in why(sc.convert(model), "tanh")


def test_the_contents_of_attributes_do_not_break_a_compiled_graph():
    model = Reads({"k": [1.0, 2.0]}, lambda own: own["k"][1])
    sc.convert(model)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("hold", [lambda log: {"h": log}, lambda log: types.SimpleNamespace(deep=[{"h": (log,)}])])
def test_tracing_leaves_nothing_in_collections_however_deep_they_are(hold):
    class Marks(Functional):
        def __init__(self):
            super().__init__()
            self.log = []
            self.held = hold(self.log)
            del self.log

        def forward(self, x):
            held = self.held["h"] if isinstance(self.held, dict) else self.held.deep[0]["h"][0]
            held.append(x)
            return super().forward(x)

    model = Marks()
    log = model.held["h"] if isinstance(model.held, dict) else model.held.deep[0]["h"][0]
    assert "sets attributes" in why(sc.convert(model), "tanh")
    assert log == []


class Branches(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.fc, self.end, self.how, self.seen = nn.Linear(4, 4), nn.Linear(4, 1), how, 0

    def forward(self, x, mask=None, scale=1.0):
        if self.how == "value" and x.sum() > 0:
            x = -x
        if self.how == "training" and self.training:
            x = x * 2
        if self.how == "isinstance" and isinstance(x, torch.Tensor):
            x = x * 2
        if self.how == "is_tensor" and torch.is_tensor(x):
            x = x * 2
        if self.how == "optional" and mask is not None:
            x = x * mask
        if self.how == "state":
            self.seen += 1
        if self.how == "random":
            x = x + torch.randn(4)
        if self.how == "constant":
            x = x + torch.ones(4)
        return self.end(torch.tanh(self.fc(x * scale)))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("training", "control flow"),
        ("optional", "another way when an optional argument is given"),
        ("state", "sets attributes"),
        ("random", "makes a tensor"),
        ("constant", "makes a tensor"),
    ],
)
def test_a_forward_that_tracing_would_freeze_is_left_with_the_reason(how, reason):
    model = Branches(how).eval()
    attributes, before = dict(model.__dict__), torch.get_rng_state()
    report = unchanged(model, torch.randn(3, 4))
    assert report.converted == ()
    (found,) = report.activations
    assert reason in found.why
    assert "nn.Tanh()" in found.why
    assert model.__dict__.keys() == attributes.keys()
    sc.convert(model)
    torch.set_rng_state(before)


@pytest.mark.parametrize("how", ["value", "isinstance", "is_tensor"])
def test_a_forward_that_cannot_be_traced_is_named_as_unseen(how):
    model = Branches(how)
    report = unchanged(model, torch.randn(3, 4))
    assert report.activations == ()
    ((name, reason),) = report.unseen
    assert name == ""
    assert ("control flow" if how == "value" else "type of a value") in reason
    assert "not seen" in str(report)


def test_optional_arguments_that_only_scale_do_not_stop_it():
    model = Branches("none")
    report = unchanged(model, torch.randn(3, 4))
    assert report.converted == ("tanh",)
    x = torch.randn(3, 4)
    assert torch.equal(model(x, scale=2.0), model(x * 2.0))
    assert not torch.equal(model(x, None, 2.0), model(x))


def test_tracing_leaves_no_mark_on_the_model_or_the_random_generators():
    class Marks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.log = nn.Linear(2, 2), []
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.log.append(x)
            self.last = x
            self.noise = torch.randn(2)
            return self.fc(torch.tanh(self.fc(x)))

    model = Marks()
    torch.manual_seed(5)
    sc.convert(model)
    assert model.log == []
    assert "last" not in model.__dict__
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_a_call_in_place_is_converted_only_if_nothing_else_reads_what_it_overwrites():
    class Net(nn.Module):
        def __init__(self, both):
            super().__init__()
            self.a, self.b, self.both = nn.Linear(3, 3), nn.Linear(3, 3), both

        def forward(self, x):
            h = self.a(x)
            y = h.tanh_()
            return self.b(y + h) if self.both else self.b(y)

    assert unchanged(Net(False), torch.randn(2, 3)).converted == ("tanh",)
    report = unchanged(Net(True), torch.randn(2, 3))
    assert report.converted == ()
    assert "overwrites" in why(report, "tanh")


def test_a_call_in_place_on_the_input_of_the_model_is_left():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 1)

        def forward(self, x):
            return self.a(torch.sigmoid_(x))

    assert sc.convert(Net()).converted == ()


def test_a_name_that_is_taken_is_not_overwritten():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.tanh, self.end = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            return self.end(torch.tanh(self.tanh(x)))

    model = Net()
    assert unchanged(model, torch.randn(2, 3)).converted == ("tanh_1",)
    assert isinstance(model.tanh, nn.Linear)


def test_functions_of_ones_own_that_are_called_tanh_are_not_taken_for_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1)

        def tanh(self, x):
            return x.clamp(-1, 1)

        def forward(self, x):
            return self.b(self.tanh(self.a(x)))

    assert unchanged(Net(), torch.randn(2, 3)).activations == ()


def test_a_sequential_with_a_forward_of_its_own_does_not_get_a_layer_more():
    class Net(nn.Sequential):
        def forward(self, x):
            return self[1](torch.tanh(self[0](x)))

    model = Net(nn.Linear(3, 3), nn.Linear(3, 1))
    report = unchanged(model, torch.randn(2, 3))
    assert len(model) == 2
    assert "Sequential" in why(report, "tanh")


def test_in_a_graph_module_modules_are_converted_and_calls_are_left():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Functional()).eval())
    report = unchanged(model, torch.randn(2, 3))
    assert report.converted == ("1",)
    assert "GraphModule" in why(report, "tanh")
    x = torch.randn(2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_a_model_that_was_compiled_before_runs_with_its_cores():
    model = Functional().eval()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(2, 4)
    before = compiled(x)
    assert sc.convert(model).converted == ("tanh", "sigmoid", "tanh_1")
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-6)
    model.tanh.set_slope(5.0)
    assert float((compiled(x) - before).detach().abs().max()) > 1e-4
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)


def test_a_forward_set_on_the_instance_stays():
    model = Functional()
    model.forward = lambda x: model.d(torch.tanh(x.repeat(1, 2)))
    own = model.forward
    report = sc.convert(model)
    assert model.forward is own
    assert "set on the instance" in report.unseen[0][1]


# --- what is left --------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Several outputs in a dict, a tuple and a list; one activation is both hidden and an output."""

    def __init__(self):
        super().__init__()
        self.body, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)
        self.features, self.both = nn.Sigmoid(), nn.Tanh()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        h = self.act(self.body(x))
        f = self.features(self.head(h))
        b = self.both(self.head(h))
        return {
            "a": (self.head(b), [b.flatten(1).unsqueeze(0)]),
            "b": F.dropout(f.view(-1, 2, 2).permute(0, 2, 1), 0.0),
        }


def test_what_reaches_any_output_through_shapes_is_left():
    report = unchanged(Heads(), torch.randn(3, 4))
    assert report.converted == ("act",)
    assert report.left == ("features", "both", "gate")
    assert why(report, "both") == why(report, "features") == "its result reaches the model's output"
    assert "does not run" in why(report, "gate")


@pytest.mark.parametrize("after", [lambda y: y.mean((1,)), torch.log, lambda y: 1 - y, lambda y: torch.cat([y, y])])
def test_what_reaches_the_output_without_weights_in_between_is_left(after):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(4, 4), nn.Sigmoid()

        def forward(self, x):
            return after(self.act(self.a(x)))

    assert unchanged(Net(), torch.randn(3, 4)).left == ("act",)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        self.squeeze, self.excite = nn.Tanh(), nn.Sigmoid()

    def forward(self, x):
        return x * self.excite(self.up(self.squeeze(self.down(self.pool(x)))))


def test_a_squeeze_excite_gate_is_left_and_the_signal_that_it_multiplies_is_converted():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), SqueezeExcite(4), nn.Conv2d(4, 1, 1))
    report = unchanged(model, torch.randn(2, 1, 6, 6))
    assert report.converted == ("1", "2.squeeze")
    assert why(report, "2.excite") == "its result multiplies another signal"


class Gates(nn.Module):
    """GLU written out, highway, swish, attention with sigmoids, additive attention, a sum with 1 - gate."""

    def __init__(self):
        super().__init__()
        self.i = nn.Linear(4, 8)
        self.glu, self.highway, self.swish, self.attention = (nn.Sigmoid() for _ in range(4))
        self.score, self.v, self.end = nn.Tanh(), nn.Linear(4, 1), nn.Linear(4, 2)
        self.signal, self.scaled = nn.Tanh(), nn.Tanh()
        self.weight = nn.Parameter(torch.ones(4))
        self.matrix = nn.Parameter(torch.eye(4))

    def forward(self, x):
        a, b = self.i(x).chunk(2, -1)
        y = a * self.glu(b)
        t = self.highway(b).unsqueeze(-1).squeeze(-1)
        y = torch.lerp(y, a, t) + (1 - t) * y
        y = y * self.swish(y)
        y = torch.matmul(self.attention(y @ y.transpose(-1, -2)), y)
        y = y * torch.softmax(self.v(self.score(y)), -1)
        return self.end(self.signal(y) @ self.matrix) + self.end(self.scaled(y) * self.weight)


def test_gates_are_left_and_weights_of_the_model_make_no_gate():
    report = unchanged(Gates(), torch.randn(3, 5, 4))
    assert report.converted == ("score", "signal", "scaled")
    assert {why(report, name) for name in ("glu", "highway", "swish", "attention")} == {
        "its result multiplies another signal"
    }


def test_a_square_is_no_gate():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)

        def forward(self, x):
            y = self.act(self.a(x))
            return self.b(y * y)

    assert unchanged(Net(), torch.randn(2, 3)).converted == ("act",)


def test_residual_sums_and_parallel_branches_are_hidden():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
            self.act_a, self.act_b = nn.Sigmoid(), nn.Tanh()

        def forward(self, x):
            return torch.cat([self.act_a(self.a(x)), self.act_b(self.b(x))], 1)

    model = nn.Sequential(Branching(), Residual(nn.Conv2d(8, 8, 1), nn.Tanh()), nn.Conv2d(8, 1, 1))
    assert set(unchanged(model, torch.randn(2, 3, 5, 5)).converted) == {"0.act_a", "0.act_b", "1.body.1"}


# --- several places ------------------------------------------------------------------------------------------------


class Reused(nn.Module):
    """One activation for two layers of unlike width, as many models have it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 1), nn.Tanh()

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x)))))


def test_a_module_in_several_places_is_left():
    report = unchanged(Reused(), torch.randn(2, 3))
    assert report.left == ("act",)
    assert why(report, "act") == "is used in 2 places; include= gives each a core of its own"


def test_a_module_called_several_times_gets_a_core_for_each_call_if_asked_for():
    model = Reused()
    report = unchanged(model, torch.randn(2, 3), include="act")
    assert report.converted == ("act", "act_1")
    assert (model.act.num_features, model.act_1.num_features) == (5, 4)
    sc.calibrate(model, torch.randn(50, 3))
    assert float(model.act.shift[0]) != float(model.act_1.shift[0])


def test_a_module_under_several_names_gets_a_core_for_each_name_if_asked_for():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 1))
    assert sc.convert(model).left == ("1",)
    report = unchanged(model, torch.randn(2, 3), include=nn.Tanh)
    assert report.converted == ("1", "3")
    assert model[1] is not model[3]
    sc.calibrate(model, torch.randn(50, 3))


def test_a_list_does_not_get_an_entry_more_for_an_activation_of_it_that_is_called_twice():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)])

        def forward(self, x):
            first, act, last = self.layers
            return last(act(first(act(first(x)))))

    model = Net()
    report = unchanged(model, torch.randn(2, 3), include="layers.1")
    assert len(model.layers) == 3
    assert why(report, "layers.1") == (
        "asked for; 1 core(s) for 2 places, calibrate needs one for each "
        "(the forward cannot be rewritten: ModuleList would take the core for one more of its entries)"
    )


def test_an_activation_that_another_module_calls_gets_its_cores_where_it_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.b, self.c = Residual(nn.Linear(3, 3)), nn.Linear(3, 3), nn.Linear(3, 1)
            self.inner.act, self.inner.act_1 = nn.Tanh(), None

        def forward(self, x):
            return self.c(self.inner.act(self.b(self.inner.act(self.inner(x)))))

    model = Net()
    assert "'inner.act_1' is taken" in unchanged(model, torch.randn(2, 3), include="inner.act").activations[0].why
    model = Net()
    del model.inner.act_1
    assert unchanged(model, torch.randn(2, 3), include="inner.act").converted == ("inner.act", "inner.act_1")


def test_two_names_for_one_place_are_no_two_places():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)])
            self.body = nn.Sequential(*self.layers)

        def forward(self, x):
            return self.body(x)

    model = Net()
    assert len(unchanged(model, torch.randn(2, 3)).converted) == 1
    assert model.layers[1] is model.body[1]
    assert isinstance(model.body[1], SigmoidCore)


def test_a_block_that_runs_twice_is_left_and_keeps_one_core_if_asked_for():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.end = Encoder(), nn.Linear(4, 1)

        def forward(self, x):
            return self.end(self.encoder(x)) - self.end(self.encoder(-x))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)

        def forward(self, x):
            return torch.sigmoid(self.b(self.act(self.a(x))))

    report = unchanged(Twins(), torch.randn(2, 3))
    assert report.left == ("encoder.sigmoid", "encoder.act")
    for name in report.left:
        assert why(report, name) == "is used in 2 places; include= makes it 1 core(s), which calibrate refuses"
    report = unchanged(Twins(), torch.randn(2, 3), include="encoder.*")
    assert report.converted == ("encoder.sigmoid", "encoder.act")
    assert all("for 2 places, calibrate needs one for each" in a.why for a in report.activations)


def test_an_activation_that_is_called_from_a_plain_list_is_left_with_the_remedy():
    class Net(nn.Module):
        def __init__(self, by_list):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)
            self.layers, self.by_list = [self.a, self.act, self.b], by_list

        def forward(self, x):
            if not self.by_list:
                return self.b(self.act(self.a(x)))
            for layer in self.layers:
                x = layer(x)
            return x

    model = Net(True)
    report = unchanged(model, torch.randn(2, 3))
    assert "nn.ModuleList" in why(report, "act")
    assert type(model.act) is nn.Tanh
    with pytest.raises(ValueError, match="plain list"):
        sc.convert(model, include="act")
    assert unchanged(Net(False), torch.randn(2, 3)).converted == ("act",)


# --- what cannot be traced -----------------------------------------------------------------------------------------


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Tanh())
        self.act, self.head = nn.Tanh(), Functional()
        self.list = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))])

    def forward(self, x):
        x = self.body(x)
        if x.sum() > 0:
            x = self.act(x)
        return self.head(self.list[0](x))


def test_in_a_model_that_cannot_be_traced_the_parts_that_can_are_converted():
    model = Untraceable()
    report = unchanged(model, torch.randn(2, 3))
    assert set(report.converted) == {"body.1", "list.0.1", "head.tanh", "head.sigmoid", "head.tanh_1"}
    assert why(report, "body.3") == (
        "its result leaves 'body', and the forward of the model could not be traced; name it in include= if a layer "
        "reads it"
    )
    assert "the forward of the model could not be traced" in why(report, "act")
    assert [name for name, _ in report.unseen] == [""]
    assert unchanged(model, torch.randn(2, 3), include=["act", "body.3"]).converted == ("body.3", "act")
    assert model.act.num_features is None


def test_a_part_that_cannot_be_traced_does_not_hide_the_rest():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.Tanh()

        def forward(self, x):
            return self.act(self.fc(x)) if x.shape[0] > 1 else x

    model = nn.Sequential(
        nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Tanh(), Inner(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)
    )
    report = unchanged(model, torch.randn(2, 3))
    assert report.converted == ("1", "6")
    assert "goes into '4'" in why(report, "3")
    assert why(report, "4.act").startswith("what reads it is not known")
    assert report.unseen[0][0] == "4"


# --- PyTorch's composites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), torch.sigmoid, torch.tanh, F.tanh])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_activation_of_a_transformer_layer_is_hidden(activation, kind):
    cls = nn.TransformerEncoderLayer if kind == "encoder" else nn.TransformerDecoderLayer
    layer = cls(8, 2, 16, 0.0, activation=activation, batch_first=True)
    inputs = [torch.randn(2, 5, 8)] * (1 if kind == "encoder" else 2)
    before = layer(*inputs)
    assert sc.convert(layer).converted == ("activation",)
    assert layer.activation.num_features == 16
    assert torch.equal(layer(*inputs), before)
    layer.activation.set_slope(1.5)
    other = copy.deepcopy(layer)
    assert torch.equal(other(*inputs), layer(*inputs))
    assert not torch.equal(other(*inputs), before)
    assert list(other.state_dict()) == list(layer.state_dict())
    assert sc.convert(other).converted == ()


def test_an_activation_that_a_copied_decoder_layer_does_not_call_is_left():
    layer = copy.deepcopy(nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation=nn.Sigmoid()))  # it calls relu now
    x = torch.randn(2, 5, 8)
    before = layer(x, x)
    assert sc.convert(layer).converted == ()
    assert torch.equal(layer(x, x), before)


def test_the_layers_of_a_transformer_encoder_each_get_a_core_in_both_modes():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation=torch.tanh, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 1))
    plain = copy.deepcopy(model).eval()
    assert unchanged(model, torch.randn(2, 5, 8)).converted == ("0.layers.0.activation", "0.layers.1.activation")
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain(x))


def test_a_core_network_is_left_as_it_is():
    report = sc.convert(sc.MLP(3, 4, 2, 1))
    assert report.converted == ()
    assert {a.why for a in report.activations} == {"is a core already"}


# --- include, exclude, nearest -------------------------------------------------------------------------------------


def deep():
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid()), nn.Linear(4, 1), nn.Sigmoid()
    )


@pytest.mark.parametrize(
    ("options", "converted"),
    [
        ({}, ("0.1", "0.3")),
        ({"exclude": "0.1"}, ("0.3",)),
        ({"exclude": "0.*"}, ()),
        ({"exclude": nn.Tanh}, ("0.3",)),
        ({"exclude": [nn.Sigmoid, "0.1"]}, ()),
        ({"include": "2"}, ("0.1", "0.3", "2")),
        ({"include": "*"}, ("0.1", "0.3", "2")),
        ({"include": nn.Sigmoid, "exclude": nn.Tanh}, ("0.3", "2")),
    ],
)
def test_names_patterns_and_types_choose(options, converted):
    assert unchanged(deep(), torch.randn(2, 3), **options).converted == converted


def test_a_type_stands_for_all_activations_inside_modules_of_that_type():
    def model():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), SqueezeExcite(4), nn.Conv2d(4, 1, 1))

    assert sc.convert(model(), exclude=SqueezeExcite).converted == ("1",)
    assert sc.convert(model(), include=[SqueezeExcite]).converted == ("1", "2.squeeze", "2.excite")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "0.2"}, "'0.2' is a Linear, no activation$"),
        ({"exclude": "0"}, r"'0' is a Sequential, no activation; write '0\.\*' for the activations in it"),
        ({"include": "0.11"}, "no activation is named '0.11'; did you mean .*'0.1'"),
        ({"exclude": "encoder"}, r"no activation is named 'encoder'; print the report of convert\(model\)"),
        ({"exclude": nn.GELU}, "the model has no activation that is a GELU or inside one"),
        ({"include": "0.1", "exclude": nn.Tanh}, "0.1 is in include and in exclude"),
        ({"nearest": "0.1"}, "nearest: '0.1' is a Tanh; only Hardsigmoid, Hardtanh, Softsign"),
    ],
)
def test_what_stands_for_nothing_is_an_error_and_the_model_is_as_it_was(options, message):
    model = deep()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        sc.convert(model, **options)
    assert dict(model.named_modules()) == before
    assert sc.convert(model).converted == ("0.1", "0.3")


def test_including_what_has_no_core_is_an_error_with_the_reason():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"include: '1' \(ReLU\) is no sigmoid$"):
        sc.convert(model, include="1")
    with pytest.raises(ValueError, match=r"'3' \(Hardtanh\) is no sigmoid; nearest= makes it the nearest core"):
        sc.convert(model, include="3")
    with pytest.raises(ValueError, match="cannot be rewritten"):
        sc.convert(Branches("constant"), include="tanh")


@pytest.mark.parametrize("wrong", [3, 0, 2.5, nn.Tanh(), [None], [nn.Tanh()]])
def test_a_choice_of_another_type_is_an_error(wrong):
    with pytest.raises(TypeError, match="include takes names, patterns and types of modules, got"):
        sc.convert(deep(), include=wrong)


def test_what_is_no_module_is_an_error():
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got builtin"):
        sc.convert(torch.tanh)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_model_of_torch_jit_is_an_error_that_says_when_to_convert():
    model = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 4))
    with pytest.raises(TypeError, match=r"convert first, then use torch\.jit"):
        sc.convert(model)


def test_an_activation_that_is_the_model_cannot_be_replaced():
    assert "use SigmoidCore" in sc.convert(nn.Tanh()).activations[0].why
    with pytest.raises(ValueError, match="use SigmoidCore"):
        sc.convert(nn.Tanh(), include="*")


@pytest.mark.parametrize(
    "activation", [nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardtanh(-2.0, 2.0), nn.Softsign()], ids=str
)
def test_the_nearest_core_has_the_same_range_and_slope_at_0_and_is_named_as_a_change(activation):
    model = nn.Sequential(nn.Linear(2, 3), activation, nn.Linear(3, 1)).double()
    assert "nearest=" in why(unchanged(model, torch.randn(2, 2, dtype=torch.float64)), "1")
    report = sc.convert(model, nearest=type(activation))
    assert report.changed == report.converted == ("1",)
    assert "the function has changed at 1" in str(report)
    x = torch.tensor([-1e5, -1e-5, 0.0, 1e-5, 1e5], dtype=torch.float64)[:, None].expand(5, 3)
    torch.testing.assert_close(model[1](x), activation(x), rtol=0, atol=3e-5)


class CallsSigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.sigmoid(self.first(x)))))


@pytest.mark.parametrize("functional", [False, True])
def test_centered_makes_centered_cores_of_hidden_sigmoids_and_names_the_change(functional):
    layers = [nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2), nn.Sigmoid()]
    model = (CallsSigmoid() if functional else nn.Sequential(*layers)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    first, second, *rest = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = rest[0](torch.tanh(second(torch.sigmoid(first(x)) - 0.5)))
    report = sc.convert(model, centered=True)
    made = cores(model)
    assert all(core.centered for core in made.values())
    assert len(made) == 2
    sigmoid = min(report.converted) if not functional else next(n for n, c in made.items() if c.scale == 1)
    assert report.changed == (sigmoid,)
    assert why(report, sigmoid) == "hidden; centered, so its function is less 1/2"
    expected = last if functional else torch.sigmoid(last)  # the output keeps its range
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sc.fold(model)(x), expected, rtol=1e-12, atol=1e-12)


def test_centered_changes_the_nearest_core_too_and_no_recurrent_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.Hardsigmoid(), nn.Linear(8, 2))
    report = sc.convert(model, nearest="1", centered=True)
    assert model[1].centered
    assert report.changed == ("1",)
    recurrent = nn.Module()
    recurrent.layer = nn.LSTM(3, 4)
    assert sc.convert(recurrent, centered=True).changed == ()


def test_there_is_no_nearest_core_for_a_range_that_is_not_symmetric_and_none_of_a_gate():
    model = nn.Sequential(nn.Linear(2, 3), nn.Hardtanh(-1.0, 2.0), nn.Linear(3, 1), nn.Hardsigmoid())
    report = sc.convert(model, nearest=["1", nn.Hardsigmoid])
    assert report.converted == ()
    assert "not symmetric" in why(report, "1")
    assert why(report, "3") == "its result reaches the model's output"


# --- living with it ------------------------------------------------------------------------------------------------


def test_copies_and_pickles_are_independent_and_equal():
    model = Functional()
    sc.convert(model)
    model.tanh.set_slope(3.0)
    x = torch.randn(4, 4)
    model.eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    expected = model(x)
    model.tanh.set_slope(1.0)
    model.a.weight.data.zero_()
    for other in copies:
        assert torch.equal(other(x), expected)
        assert other.forward.module is other
        assert sc.convert(other).converted == ()


def test_a_checkpoint_of_the_converted_model_differs_only_in_slopes_and_shifts():
    plain, model = Functional(), Functional()
    sc.convert(model)
    state = model.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key") as error:
        plain.load_state_dict(state)
    assert "Missing key" not in str(error.value)
    plain.load_state_dict({k: v for k, v in state.items() if not k.endswith(("slope", "shift"))})
    x = torch.randn(3, 4)
    assert torch.equal(plain.eval()(x), model.eval()(x))
    model.tanh.set_slope(3.0)
    other = Functional()
    sc.convert(other)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.parametrize("make", [Functional, lambda: deep()])
def test_a_converted_model_compiles_without_breaks_or_recompiling_when_slopes_move(make):
    model = make().eval()
    sc.convert(model)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    x = torch.randn(5, next(model.parameters()).shape[1])
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
    for core in cores(model).values():
        core.set_slope(1.7)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


def test_a_converted_model_works_under_torch_func_double_backward_and_export():
    model = Functional().eval()
    plain = copy.deepcopy(model)
    sc.convert(model)
    x = torch.randn(3, 4)
    for f in (model, plain):
        params = dict(f.named_parameters())

        def loss(p, one, f=f):
            return torch.func.functional_call(f, p, (one,)).sum()

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
        hessian = torch.func.hessian(lambda v, f=f: f(v).sum())(x[0])
        result = [gradients["a.weight"], hessian]
        if f is model:
            first = result
    for a, b in zip(first, result, strict=True):
        torch.testing.assert_close(a, b)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), plain(x))


def test_a_convolution_under_vmap_has_no_batch_dimension_and_still_works():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 1))
    x = torch.randn(4, 1, 6, 6)
    before = model(x)
    sc.convert(model)
    torch.testing.assert_close(torch.func.vmap(model)(x), before)


def test_convert_then_prepare_makes_the_gradient_level():
    model = nn.Sequential(*[m for _ in range(30) for m in (nn.Linear(16, 16), nn.Tanh())], nn.Linear(16, 2))
    sc.convert(model)
    x = torch.randn(200, 16)
    before = sc.gradient_profile(model, x).spread
    assert before > 3
    assert sc.prepare(model, x).after.spread < 1.1


def test_a_network_of_sigmoids_that_is_converted_and_calibrated_gets_its_gradient_back():
    model = sc.MLP(16, 32, 20, 4, activation=lambda width: nn.Sigmoid())
    sc.convert(model)
    x = torch.randn(200, 16)
    report = sc.calibrate(model, x)
    assert report.before.spread > 1e6
    assert report.after.spread < 1.1


def test_two_floating_types_in_one_model_each_get_cores_of_their_own():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(3, 3), nn.Tanh()
            self.b, self.act_b, self.c = nn.Linear(3, 3).double(), nn.Tanh(), nn.Linear(3, 1).double()

        def forward(self, x):
            return self.c(self.act_b(self.b(self.act(self.a(x)).double())))

    model = Mixed()
    unchanged(model, torch.randn(2, 3))
    assert model.act.slope.dtype == torch.float32
    assert model.act_b.slope.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_outputs_and_types_are_those_of_the_plain_model(dtype):
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    plain = copy.deepcopy(model)
    sc.convert(model)
    with torch.autocast("cpu", dtype=dtype):
        assert model(x).dtype == dtype
        assert torch.equal(model(x), plain(x))
    assert torch.equal(model.half()(x.half()), plain.half()(x.half()))
    assert model[1].slope.dtype == torch.float32


def test_an_error_half_way_leaves_the_model_as_it_was(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Functional(), nn.Linear(2, 3), Reused())
    before = [(m, dict(m.__dict__), dict(m._modules)) for m in model.modules()]
    made, init = [], SigmoidCore.__init__

    def breaks(self, *args, **kwargs):
        made.append(self)
        if len(made) == 4:
            raise MemoryError("no room for another core")
        init(self, *args, **kwargs)

    monkeypatch.setattr(SigmoidCore, "__init__", breaks)
    with pytest.raises(MemoryError):
        sc.convert(model)
    assert [(m, dict(m.__dict__), dict(m._modules)) for m in model.modules()] == before
    monkeypatch.undo()
    assert len(sc.convert(model, include="4.act").converted) == 7


# --- the report ----------------------------------------------------------------------------------------------------


def test_the_report_says_it_in_a_line_for_each_reason():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(4, 4), nn.Tanh())])
            self.inner, self.end, self.out = Branches("value"), nn.Linear(4, 1), nn.Sigmoid()

        def forward(self, x):
            return self.out(self.end(self.body(x)) + self.inner(x))

    assert str(sc.convert(Model())) == (
        "converted 5 of 6 activations\n"
        "  converted  body.1, body.3, body.5 and 2 more  Tanh     hidden\n"
        "  left       out                                Sigmoid  its result reaches the model's output\n"
        "  not seen   inner                              forward  could not be traced: symbolically traced variables "
        "cannot be used as inputs to control flow"
    )


def test_a_model_without_activations_has_an_empty_report():
    report = sc.convert(nn.Linear(2, 2))
    assert report.activations == ()
    assert str(report) == "converted 0 of 0 activations"


def test_the_report_is_frozen():
    report = sc.convert(deep())
    with pytest.raises(AttributeError):
        report.activations = ()
    with pytest.raises(AttributeError):
        report.activations[0].converted = False
