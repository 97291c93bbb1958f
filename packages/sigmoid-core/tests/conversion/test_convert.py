"""convert: the function stays bit for bit; hidden activations become cores, all others are left with a reason."""

import copy

import pytest
import torch
import torch.nn.functional as F
from core_support.conversions import unchanged, why
from core_support.networks import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sigmoidcore as sc
from sigmoidcore import SigmoidCore


def cores(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}


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


@settings(max_examples=15)
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


@pytest.mark.parametrize(
    ("layers", "shape", "features", "dim"),
    [
        ([nn.Conv1d(2, 5, 3)], (3, 2, 9), 5, -2),
        ([nn.Conv2d(2, 4, 3, stride=2, groups=2, dilation=2, padding_mode="circular", padding=1)], (3, 2, 9, 9), 4, -3),
        ([nn.ConvTranspose2d(2, 5, 3)], (3, 2, 4, 4), 5, -3),
        ([nn.Conv2d(2, 5, 3)], (2, 9, 9), 5, -3),
        ([nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6)], (3, 2, 9, 9), 6, -3),
        ([nn.Conv2d(2, 5, 3), nn.MaxPool2d(2), nn.Dropout2d()], (3, 2, 9, 9), 5, -3),
        ([nn.Linear(4, 5), nn.LayerNorm(5)], (3, 7, 4), 5, -1),
        ([nn.Conv2d(2, 5, 3), nn.Flatten()], (3, 2, 4, 4), None, -1),
        ([nn.Linear(4, 6), nn.Unflatten(-1, (2, 3))], (3, 4), None, -1),
        ([nn.Linear(4, 6), nn.BatchNorm1d(6), nn.AvgPool1d(2)], (3, 4), None, -1),
        ([nn.Conv1d(2, 3, 3), nn.Flatten(), nn.BatchNorm1d(9), nn.MaxPool1d(3)], (3, 2, 5), None, -1),
        ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)], (3, 2, 9, 9), 5, -3),
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


@pytest.mark.parametrize("rule", [lambda s, x: torch.where(s > 0.5, x, 0.0 * x), lambda s, x: x * torch.round(s)])
def test_a_hard_gate_is_left(rule):
    parts = {"a": nn.Linear(4, 4), "gate": nn.Sigmoid(), "b": nn.Linear(4, 2)}
    report = unchanged(Net(lambda m, x: m.b(rule(m.gate(m.a(x)), x)), **parts), torch.randn(5, 4))
    assert why(report, "gate") == "its result is compared or rounded, and no gradient comes back"


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


def test_an_activation_that_reaches_any_output_through_shapes_is_left():
    report = unchanged(Heads(), torch.randn(3, 4))
    assert report.converted == ("act",)
    assert report.left == ("features", "both", "gate")
    assert why(report, "both") == why(report, "features") == "its result reaches the model's output"
    assert "does not run" in why(report, "gate")


@pytest.mark.parametrize("after", [lambda y: y.mean((1,)), torch.log, lambda y: 1 - y, lambda y: torch.cat([y, y])])
def test_an_activation_that_reaches_the_output_without_weights_in_between_is_left(after):
    model = Net(lambda m, x: after(m.act(m.a(x))), a=nn.Linear(4, 4), act=nn.Sigmoid())
    assert unchanged(model, torch.randn(3, 4)).left == ("act",)


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


def test_a_square_is_not_a_gate():
    def forward(net, x):
        y = net.act(net.a(x))
        return net.b(y * y)

    model = Net(forward, a=nn.Linear(3, 3), act=nn.Tanh(), b=nn.Linear(3, 1))
    assert unchanged(model, torch.randn(2, 3)).converted == ("act",)


def test_residual_sums_and_parallel_branches_are_hidden():
    parts = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 3, padding=1), "act_a": nn.Sigmoid(), "act_b": nn.Tanh()}
    branching = Net(lambda m, x: torch.cat([m.act_a(m.a(x)), m.act_b(m.b(x))], 1), **parts)
    model = nn.Sequential(branching, Residual(nn.Conv2d(8, 8, 1), nn.Tanh()), nn.Conv2d(8, 1, 1))
    assert set(unchanged(model, torch.randn(2, 3, 5, 5)).converted) == {"0.act_a", "0.act_b", "1.body.1"}


def test_a_module_under_several_names_gets_a_core_for_each_name_if_asked_for():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 1))
    assert sc.convert(model).left == ("1",)
    report = unchanged(model, torch.randn(2, 3), include=nn.Tanh)
    assert report.converted == ("1", "3")
    assert model[1] is not model[3]
    sc.calibrate(model, torch.randn(50, 3))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Tanh())
        self.act, self.head = nn.Tanh(), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        self.list = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))])

    def forward(self, x):
        x = self.body(x)
        if x.sum() > 0:
            x = self.act(x)
        return self.head(self.list[0](x))


def test_in_a_model_that_cannot_be_traced_the_parts_that_can_are_converted():
    model = Untraceable()
    report = unchanged(model, torch.randn(2, 3))
    assert set(report.converted) == {"body.1", "list.0.1", "head.1"}
    assert why(report, "body.3") == (
        "its result leaves 'body', and the forward of the model cannot be traced; name it in include= if a layer "
        "reads it"
    )
    assert "the forward of the model cannot be traced" in why(report, "act")
    assert [name for name, _ in report.unseen] == [""]
    assert unchanged(model, torch.randn(2, 3), include=["act", "body.3"]).converted == ("body.3", "act")
    assert model.act.num_features is None


def test_a_part_that_cannot_be_traced_does_not_hide_the_rest():
    inner = Net(lambda m, x: m.act(m.fc(x)) if x.shape[0] > 1 else x, fc=nn.Linear(4, 4), act=nn.Tanh())
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Tanh(), inner, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)
    )
    report = unchanged(model, torch.randn(2, 3))
    assert report.converted == ("1", "6")
    assert "goes into '4'" in why(report, "3")
    assert why(report, "4.act").startswith("what reads it is not known")
    assert report.unseen[0][0] == "4"


def test_an_activation_inside_a_layer_of_pytorch_is_left():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation=nn.Tanh(), batch_first=True)
    assert "TransformerEncoderLayer calls it" in why(unchanged(layer, torch.randn(2, 5, 8)), "activation")


def test_a_core_network_is_left_as_it_is():
    report = sc.convert(sc.MLP(3, 4, 2, 1))
    assert report.converted == ()
    assert {a.why for a in report.activations} == {"is a core already"}


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
        ({"include": "0.2"}, "'0.2' is a Linear, not an activation$"),
        ({"exclude": "0"}, r"'0' is a Sequential, not an activation; write '0\.\*' for the activations in it"),
        ({"include": "0.11"}, "no activation is named '0.11'; did you mean .*'0.1'"),
        ({"exclude": "encoder"}, r"no activation is named 'encoder'; print the report of convert\(model\)"),
        ({"exclude": nn.GELU}, "the model has no activation that is a GELU or inside one"),
        ({"include": "0.1", "exclude": nn.Tanh}, "0.1 is in include and in exclude"),
    ],
)
def test_a_choice_without_a_match_is_an_error_and_the_model_does_not_change(options, message):
    model = deep()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        sc.convert(model, **options)
    assert dict(model.named_modules()) == before
    assert sc.convert(model).converted == ("0.1", "0.3")


def test_including_an_activation_without_a_core_is_an_error_with_the_reason():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"include: '1' \(ReLU\) is not a sigmoid$"):
        sc.convert(model, include="1")


@pytest.mark.parametrize("wrong", [3, 0, 2.5, nn.Tanh(), [None], [nn.Tanh()]])
def test_a_choice_of_another_type_is_an_error(wrong):
    with pytest.raises(TypeError, match="include takes names, patterns and types of modules, got"):
        sc.convert(deep(), include=wrong)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_model_of_torch_jit_is_an_error_that_says_when_to_convert():
    model = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 4))
    with pytest.raises(TypeError, match=r"convert first, then use torch\.jit"):
        sc.convert(model)


def test_centered_makes_centered_cores_of_hidden_sigmoids_and_names_the_change():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Sigmoid()).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = model[3](model[2](model[1](model[0](x)) - 0.5))  # the output keeps its range
    report = sc.convert(model, centered=True)
    assert report.changed == report.converted == ("1",)
    assert why(report, "1") == "hidden; centered, so its function is less 1/2"
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sc.fold(model)(x), expected, rtol=1e-12, atol=1e-12)
    recurrent = nn.Module()
    recurrent.layer = nn.LSTM(3, 4)
    assert sc.convert(recurrent, centered=True).changed == ()


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


class Branching(nn.Module):
    """Its forward branches on a value, and calls activations in every spelling, in a helper, too."""

    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.Tanh()

    def forward(self, x):
        if x.sum() > 0:
            x = torch.tanh(self.linear(x))
        return self.head(self.act(x)) + F.sigmoid(input=x)

    def head(self, x):
        return x.sigmoid()


def test_the_report_has_a_line_for_each_reason_and_fits_in_80_columns():
    body = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(4, 4), nn.Tanh())])
    parts = {"body": body, "inner": Branching(), "end": nn.Linear(4, 1), "out": nn.Sigmoid()}
    report = sc.convert(Net(lambda m, x: m.out(m.end(m.body(x)) + m.inner(x)), **parts))
    assert report.unseen == (("inner", "it branches on a value"),)
    lines = str(report).splitlines()
    assert lines[:10] == [
        "converted 5 of 7 activations",
        "  converted  body.1, body.3, body.5 and 2 more  Tanh",
        "             hidden",
        "  left       inner.act                          Tanh",
        "             what reads it is not known: the forward of 'inner' cannot be",
        "             traced; name it in include= if a layer does",
        "  left       out                                Sigmoid",
        "             its result reaches the model's output",
        "  not seen   inner                              forward",
        "             it branches on a value",
    ]
    assert "self.tanh = nn.Tanh()" in " ".join(lines[10:])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("depth", "centered", "said"), [(10, False, False), (11, False, True), (11, True, False)])
def test_many_cores_that_are_not_centered_are_named_with_the_remedy(depth, centered, said):
    layers = [m for _ in range(depth) for m in (nn.Linear(4, 4), nn.Sigmoid())]
    report = str(sc.convert(nn.Sequential(*layers, nn.Linear(4, 1)), centered=centered))
    assert ("11 cores are not centered" in report and "sc.convert(model, centered=True)" in report) == said


def test_a_model_without_activations_has_an_empty_report():
    report = sc.convert(nn.Linear(2, 2))
    assert report.activations == ()
    assert str(report) == "converted 0 of 0 activations"
