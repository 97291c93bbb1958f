"""Which layers the probe sees, by which names, what feeds them and which weights they use."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from unstuck_support.measuring import Forward, measured, names, sources

from unstuck.measure.probe import Probe
from unstuck.observation.process_group import Ranks


def rows(forward, inputs, **parts):
    """The measurement of a forward that is written as a function."""
    return measured(Forward(forward, **parts), inputs)


X = torch.randn(16, 6)
IMAGES = torch.randn(4, 3, 5, 7)
SEQUENCES = torch.randn(16, 5, 8)


def test_modules_have_their_own_names_and_kinds():
    m = measured(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Tanh())), X)
    assert [(row.name, row.module, row.kind, row.role) for row in m.layers] == [
        ("0", "0", "Linear", "weights"),
        ("1", "1", "ReLU", "activation"),
        ("2.0", "2.0", "Linear", "weights"),
        ("2.1", "2.1", "Tanh", "activation"),
    ]
    assert sources(m) == {"0": [], "1": ["0"], "2.0": ["1"], "2.1": ["2.0"]}
    assert [row.weights for row in m.layers] == [("0.weight",), (), ("2.0.weight",), ()]
    assert [row.shape for row in m.layers] == [(16, 8)] * 4


def test_a_function_is_named_after_the_module_that_calls_it():
    block = Forward(lambda s, x: functional.gelu(s.fc(x)), fc=nn.Linear(8, 8))
    m = rows(lambda s, x: torch.tanh(s.block(functional.relu(s.fc(x)))), X, fc=nn.Linear(6, 8), block=block)
    assert [(row.name, row.module, row.kind) for row in m.layers] == [
        ("fc", "fc", "Linear"),
        ("relu", "", "relu()"),
        ("block.fc", "block.fc", "Linear"),
        ("block.gelu", "block", "gelu()"),
        ("tanh", "", "tanh()"),
    ]


@pytest.mark.parametrize(
    ("product", "kind"),
    [
        (lambda s, x: x @ s.w, "matmul"),
        (lambda s, x: torch.addmm(s.b, x, s.w), "addmm"),
        (lambda s, x: functional.linear(x, s.w.mT.contiguous() * 2), "linear"),
        (lambda s, x: torch.einsum("bi,io->bo", x, s.w), "einsum"),
        (lambda s, x: (s.w.t() @ x.t()).t(), "matmul"),
    ],
)
def test_a_product_with_a_parameter_is_a_layer(product, kind):
    m = rows(lambda s, x: torch.tanh(product(s, x)), X, w=torch.randn(6, 8), b=torch.zeros(8))
    assert [(row.name, row.kind, row.role, row.weights) for row in m.layers] == [
        (kind, f"{kind}()", "weights", ("w",)),
        ("tanh", "tanh()", "activation", ()),
    ]
    assert m.layers[1].neurons == 8
    assert m.layers[1].sources == (0,)


def test_computations_on_parameters_alone_are_not_layers():
    def forward(s, x):
        weight = s.w + s.up @ s.down  # a low-rank correction
        return functional.linear(x, weight) * torch.sigmoid(s.gate) * functional.softplus(s.temperature)

    m = rows(
        forward,
        X,
        w=torch.randn(8, 6),
        up=torch.randn(8, 2),
        down=torch.randn(2, 6),
        gate=torch.randn(8),
        temperature=torch.zeros(()),
    )
    assert names(m) == ["linear"]
    assert m.layers[0].weights == ("w", "up", "down")
    assert all(w.used for w in m.weights)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "weights"),
    [
        (parametrizations.weight_norm, {"1.parametrizations.weight.original0", "1.parametrizations.weight.original1"}),
        (parametrizations.spectral_norm, {"1.parametrizations.weight.original"}),
        (parametrizations.orthogonal, {"1.parametrizations.weight.original"}),
        (nn.utils.weight_norm, {"1.weight_g", "1.weight_v"}),
        (nn.utils.spectral_norm, {"1.weight_orig"}),
        (lambda layer: prune.random_unstructured(layer, "weight", 0.5), {"1.weight_orig"}),
    ],
)
def test_a_parametrized_layer_is_one_layer_of_its_original_weights(wrap, weights):
    model = nn.Sequential(nn.Linear(6, 8), wrap(nn.Linear(8, 8)), nn.ReLU())
    m = measured(model, X)
    assert names(m) == ["0", "1", "2"]
    assert set(m.layers[1].weights) == weights
    assert sources(m)["1"] == ["0"]


def test_tied_embeddings_are_used_by_both_layers():
    out = nn.Linear(8, 11, bias=False)
    emb = nn.Embedding(11, 8)
    out.weight = emb.weight
    m = rows(lambda s, i: s.out(torch.tanh(s.emb(i))), torch.randint(0, 11, (16, 5)), emb=emb, out=out)
    assert [(row.name, row.kind, row.weights) for row in m.layers] == [
        ("emb", "Embedding", ("emb.weight",)),
        ("tanh", "tanh()", ()),
        ("out", "Linear", ("emb.weight",)),
    ]
    assert [w.name for w in m.weights] == ["emb.weight"]


def test_later_calls_of_a_shared_module_are_counted_in_their_names():
    def forward(s, x):
        for _ in range(3):
            x = s.act(s.fc(x))
        return x

    m = rows(forward, X, fc=nn.Linear(6, 6), act=nn.Tanh())
    assert names(m) == ["fc", "act", "fc@2", "act@2", "fc@3", "act@3"]
    assert sources(m)["fc@2"] == ["act"]
    assert {row.module for row in m.layers} == {"fc", "act"}


def test_a_layer_of_a_residual_network_reads_all_branches_before_it():
    def forward(s, x):
        x = s.stem(x)
        for fc in s.blocks:
            x = x + torch.relu(fc(x))
        return s.head(x)

    m = rows(
        forward, X, stem=nn.Linear(6, 6), blocks=nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), head=nn.Linear(6, 2)
    )
    assert sources(m)["blocks.0"] == ["stem"]
    assert sources(m)["blocks.2"] == ["stem", "relu", "relu@2"]
    assert sources(m)["head"] == ["stem", "relu", "relu@2", "relu@3"]


def test_parallel_branches_have_one_source_and_meet_again():
    def forward(s, x):
        x = s.stem(x)
        return s.out(torch.cat([s.one(x), torch.relu(s.three(x)), functional.max_pool2d(x, 3, 1, 1)], 1))

    m = rows(
        forward,
        IMAGES,
        stem=nn.Conv2d(3, 4, 3, padding=1),
        one=nn.Conv2d(4, 4, 1),
        three=nn.Conv2d(4, 4, 3, padding=1),
        out=nn.Conv2d(12, 2, 1),
    )
    found = sources(m)
    assert found["one"] == found["three"] == ["stem"]
    assert found["out"] == ["stem", "one", "relu"]


@pytest.mark.parametrize(
    "joined",
    [
        lambda a, b: torch.cat([a, b], 1),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: a.mul(b),
        lambda a, b: torch.cat([a.chunk(2, 1)[0], b[:, 3:]], 1),
        lambda a, b: (a.T @ b).unsqueeze(0),
    ],
)
def test_a_function_of_two_layers_has_both_sources(joined):
    m = rows(lambda s, x: torch.tanh(joined(s.a(x), s.b(x))), X, a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    assert sources(m)["tanh"] == ["a", "b"]


@pytest.mark.parametrize(
    "one",
    [
        lambda s, x: x.clone().mul_(2),
        lambda s, x: functional.dropout(x, 0.5),
        lambda s, x: x.view(4, 4, 6).transpose(0, 1).reshape(16, 6),
        lambda s, x: x / x.norm(dim=1, keepdim=True),
        lambda s, x: x.to(torch.float64).float(),
        lambda s, x: x[torch.randperm(16)],
    ],
)
def test_a_function_of_one_layer_has_its_source(one):
    m = rows(lambda s, x: torch.tanh(one(s, s.fc(x))), X, fc=nn.Linear(6, 6))
    assert sources(m)["tanh"] == ["fc"]


def test_sources_follow_writes_into_a_tensor():
    def forward(s, x):
        out = x.new_zeros(len(x), 2, 6)
        for t in range(2):
            out[:, t] = s.fc(x)
        return s.head(out)

    m = rows(forward, X, fc=nn.Linear(6, 6), head=nn.Linear(6, 2))
    assert sources(m)["head"] == ["fc", "fc@2"]


class Doubled(torch.autograd.Function):
    """A function of the user's own, which PyTorch does not show."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_sources_pass_through_a_module_of_custom_autograd_functions():
    hidden = Forward(lambda s, x: Doubled.apply(x))
    m = measured(nn.Sequential(nn.Linear(6, 6), hidden, nn.Linear(6, 2)), X)
    assert sources(m) == {"0": [], "2": ["0"]}
    ending = Forward(lambda s, x: Doubled.apply(torch.tanh(s.fc(x))), fc=nn.Linear(6, 6))
    assert sources(measured(nn.Sequential(nn.Linear(6, 6), ending, nn.Linear(6, 2)), X))["2"] == ["1.tanh"]


@pytest.mark.parametrize(
    "scale",
    [
        lambda h, g: h * g[:, :, None, None],
        lambda h, g: g.view(4, -1, 1, 1) * h,
        lambda h, g: h.mul_(g.unsqueeze(-1).unsqueeze(-1).expand_as(h)),
    ],
)
def test_the_sigmoid_of_squeeze_and_excite_is_a_gate(scale):
    def forward(s, x):
        h = s.conv(x)
        g = torch.sigmoid(s.up(torch.relu(s.down(h.mean((2, 3))))))
        return s.out(scale(h, g))

    parts = {"conv": nn.Conv2d(3, 6, 1), "down": nn.Linear(6, 3), "up": nn.Linear(3, 6), "out": nn.Conv2d(6, 2, 1)}
    m = rows(forward, IMAGES, **parts)
    assert [row.name for row in m.layers if row.gate] == ["sigmoid"]
    assert sources(m)["out"] == ["conv", "sigmoid"]


def test_gates_of_gated_linear_units_are_found():
    def forward(s, x):
        a, b = s.fc(x).chunk(2, -1)
        y = a * torch.sigmoid(b)
        both = torch.tanh(s.fc(x))
        y = y + both[:, :6] * both[:, 6:]
        return y + functional.silu(s.fc(x)[:, :6]) * a

    m = rows(forward, X, fc=nn.Linear(6, 12))
    assert [row.name for row in m.layers if row.gate] == ["sigmoid", "tanh", "silu"]


def test_an_activation_times_a_number_a_parameter_or_a_mask_is_not_a_gate():
    def forward(s, x):
        mask = (x[:, :1] > 0).float()
        return s.out(2 * torch.relu(s.fc(x)) * s.scale * mask / 3)

    m = rows(forward, X, fc=nn.Linear(6, 8), scale=torch.ones(8), out=nn.Linear(8, 1))
    assert not any(row.gate for row in m.layers)


def test_a_softmax_before_a_product_is_attention_and_another_is_an_activation():
    def forward(s, x):
        q, k, v = s.qkv(x).view(16, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = functional.dropout((q @ k.transpose(-2, -1) / 2).softmax(-1), 0.1, s.training)
        mixed = torch.einsum("bhqk,bhkd->bqhd", weights, v).reshape(16, 5, 8)
        return torch.softmax(s.out(mixed), -1)

    m = rows(forward, SEQUENCES, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))
    assert [(row.name, row.role) for row in m.layers] == [
        ("qkv", "weights"),
        ("softmax", "attention"),
        ("out", "weights"),
        ("softmax@2", "activation"),
    ]
    assert len(m.answers["attentions"]) == 1
    assert sources(m)["out"] == ["qkv", "softmax"]


@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, functional.silu)])
def test_the_rows_of_a_transformer_encoder(norm_first, activation):
    one = nn.TransformerEncoderLayer(8, 2, 16, 0.1, activation, batch_first=True, norm_first=norm_first)
    m = measured(nn.TransformerEncoder(one, 2, enable_nested_tensor=False), SEQUENCES)
    called = activation if isinstance(activation, str) else "silu"
    assert names(m) == [f"layers.{i}.{part}" for i in range(2) for part in ("self_attn", "linear1", called, "linear2")]
    assert [row.kind for row in m.layers[:4]] == ["MultiheadAttention", "Linear", f"{called}()", "Linear"]
    assert m.layers[0].weights == ("layers.0.self_attn.in_proj_weight", "layers.0.self_attn.out_proj.weight")
    assert m.layers[2].neurons == 16
    found = sources(m)
    assert found["layers.0.linear1"] == ["layers.0.self_attn"]
    assert found["layers.1.self_attn"] == ["layers.0.self_attn", "layers.0.linear2"]
    assert found["layers.1.linear1"] == ["layers.0.self_attn", "layers.0.linear2", "layers.1.self_attn"]


def test_a_frozen_encoder_in_evaluation_mode_does_not_use_its_fast_path():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    m = measured(nn.Sequential(encoder, nn.Linear(8, 2)), SEQUENCES)
    assert names(m) == ["0.self_attn", "0.linear1", "0.relu", "0.linear2", "1"]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("batch_first", "bidirectional"), [(False, True), (True, False)])
def test_a_recurrent_layer_is_one_row(kind, batch_first, bidirectional):
    rnn = kind(8, 4, 2, batch_first=batch_first, bidirectional=bidirectional)

    def forward(s, x):
        h = s.rnn(x if batch_first else x.transpose(0, 1))[0]
        return s.out(h)

    m = rows(forward, SEQUENCES, rnn=rnn, out=nn.Linear(8 if bidirectional else 4, 2))
    assert [(row.name, row.kind, row.role) for row in m.layers] == [
        ("rnn", kind.__name__, "weights"),
        ("out", "Linear", "weights"),
    ]
    assert set(m.layers[0].weights) == {f"rnn.{n}" for n, p in rnn.named_parameters() if p.dim() > 1}
    assert len(m.answers["memories"]) == 1
    assert sources(m)["out"] == ["rnn"]


def test_a_packed_sequence_is_followed():
    def forward(s, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(s.rnn(packed)[0], batch_first=True)
        return s.out(h)

    lengths = torch.randint(1, 6, (16,))
    lengths[3] = 5
    m = rows(forward, (SEQUENCES, lengths), rnn=nn.LSTM(8, 4), out=nn.Linear(4, 2))
    assert names(m) == ["rnn", "out"]
    assert len(m.answers["memories"]) == 1
    assert sources(m)["out"] == ["rnn"]
    assert m.samples == 16


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_a_loop_over_a_cell_has_a_row_for_every_step(kind):
    def forward(s, x):
        state = None
        for t in range(5):
            state = s.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state

    m = rows(forward, SEQUENCES, cell=kind(8, 4))
    assert names(m) == ["cell", "cell@2", "cell@3", "cell@4", "cell@5"]
    assert m.layers[4].kind == kind.__name__
    assert m.layers[4].weights == ("cell.weight_ih", "cell.weight_hh")
    assert sources(m)["cell@5"] == ["cell@4"]


@pytest.mark.parametrize(
    ("moved", "neurons"),
    [
        (lambda h: h.permute(0, 2, 3, 1), 6),
        (lambda h: h.permute(0, 2, 3, 1).contiguous() + 1, 6),
        (lambda h: h.flatten(2), 6),
        (lambda h: h.flatten(1), 210),
        (lambda h: h[:, 1:4], 3),
        (lambda h: h.mean((2, 3)), 6),
        (lambda h: functional.adaptive_avg_pool2d(h, 1).flatten(1), 6),
        (lambda h: functional.pixel_unshuffle(h[:, :, :4, :4], 2), 24),
        (lambda h: functional.interpolate(h, scale_factor=2), 6),
        (lambda h: functional.layer_norm(h.permute(0, 2, 3, 1), (6,)), 6),
        (lambda h: h.to(memory_format=torch.channels_last), 6),
    ],
)
def test_neurons_after_a_convolution_are_its_channels(moved, neurons):
    m = rows(lambda s, x: torch.relu(moved(s.conv(x))), IMAGES, conv=nn.Conv2d(3, 6, 3, padding=1))
    assert m.layers[-1].neurons == neurons


@pytest.mark.parametrize(
    ("net", "inputs", "neurons"),
    [
        (nn.Sequential(nn.Conv1d(3, 5, 2), nn.Tanh()), (4, 3, 9), 5),
        (nn.Sequential(nn.Conv3d(3, 5, 2), nn.BatchNorm3d(5), nn.Tanh()), (4, 3, 4, 4, 4), 5),
        (nn.Sequential(nn.ConvTranspose2d(3, 5, 2, 2), nn.ReLU()), (4, 3, 4, 4), 5),
        (nn.Sequential(nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.ReLU()), (4, 3, 5, 7), 4),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), (4, 9, 3), 5),
    ],
)
def test_the_neurons_of_an_activation_are_the_features_of_its_layer(net, inputs, neurons):
    assert measured(net, torch.randn(inputs)).layers[-1].neurons == neurons


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda y: {"logits": y, "hidden": [y * 2]},
        lambda y: (y, None, "text"),
        lambda y: torch.return_types.max((y, torch.zeros(16, dtype=torch.long))),
    ],
)
def test_a_model_may_return_dicts_and_tuples(wrapped):
    m = rows(lambda s, x: wrapped(s.fc(x)), X, fc=nn.Linear(6, 2))
    assert names(m) == ["fc"]
    assert m.layers[0].gradient > 0


def test_a_model_may_be_called_by_name():
    model = Forward(
        lambda s, *, x, scale: s.out(torch.relu(s.fc(input=x) * scale)), fc=nn.Linear(6, 8), out=nn.Linear(8, 2)
    )
    m = measured(model, {"x": X, "scale": torch.ones(16, 1)})
    assert names(m) == ["fc", "relu", "out"]
    assert m.samples == 16
    assert m.input_spread is not None


def test_parts_called_one_by_one_are_one_pass():
    model = Forward(None, encoder=nn.Linear(6, 4), decoder=nn.Linear(4, 6))
    probe = Probe(model, most=None, ranks=Ranks())
    probe.attach()
    model.decoder(torch.relu(model.encoder(X))).square().mean().backward()
    m = probe.conclude()
    assert names(m) == ["encoder", "relu", "decoder"]
    assert m.samples == 16
    assert all(row.gradient > 0 for row in m.layers)


def test_a_functional_call_inside_the_forward_is_followed():
    def forward(s, x):
        faster = {name: p - 0.1 * p.detach() for name, p in s.fc.named_parameters()}
        return s.out(torch.relu(torch.func.functional_call(s.fc, faster, (x,))))

    m = rows(forward, X, fc=nn.Linear(6, 8), out=nn.Linear(8, 2))
    assert [(row.name, row.weights) for row in m.layers] == [
        ("fc", ("fc.weight",)),
        ("relu", ()),
        ("out", ("out.weight",)),
    ]


def test_calls_in_vmap_are_reported_as_not_measured():
    block = Forward(lambda s, x: torch.vmap(lambda row: torch.tanh(s.fc(row)))(x), fc=nn.Linear(6, 8))
    m = measured(nn.Sequential(nn.Linear(6, 6), block, nn.Linear(8, 2)), X)
    assert names(m) == ["0", "2"]
    assert sources(m)["2"] == ["0"]
    assert any("vmap" in note for note in m.notes)
    assert m.layers[0].gradient > 0


def test_complex_layers_are_reported_as_not_measured():
    def forward(s, x):
        spectrum = torch.einsum("bf,fg->bg", torch.fft.rfft(s.fc(x)), s.filters)
        return s.out(torch.fft.irfft(spectrum, n=6))

    m = rows(forward, X, fc=nn.Linear(6, 6), filters=torch.randn(4, 4, dtype=torch.complex64), out=nn.Linear(6, 2))
    assert sources(m) == {"fc": [], "out": ["fc"]}
    assert all(w.used for w in m.weights)
    assert m.notes == ("layers of complex numbers, the first of them that of filters",)


def test_the_scales_of_branches_are_found_and_not_those_of_several_layers():
    def forward(s, x):
        h = s.stem(x)
        h = h + s.gamma * torch.nn.functional.dropout(s.a(h), 0.1)
        h = h + torch.relu(s.b(h)) * s.delta.view(1, -1)
        return s.out(h * s.gain)

    scales = {name: nn.Parameter(torch.ones(6)) for name in ("gamma", "delta", "gain")}
    m = rows(forward, X, stem=nn.Linear(6, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2), **scales)
    assert {x.name: x.scaled_by for x in m.layers if x.scaled_by} == {"a": ("gamma",), "relu": ("delta",)}


def test_the_loss_function_and_its_layer_are_found():
    y = torch.randint(0, 2, (16,))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    m = measured(model, X, y, nn.CrossEntropyLoss())
    assert (m.loss_function, m.loss_reads) == ("cross_entropy", 2)
    m = measured(nn.Sequential(*model, nn.Softmax(-1)), X, y, functional.cross_entropy)
    assert (m.loss_function, m.loss_reads) == ("cross_entropy", 3)
    m = measured(model, X, y, lambda out, y: functional.cross_entropy(out[:, :2].reshape(-1, 2), y))
    assert (m.loss_function, m.loss_reads) == ("cross_entropy", 2)
    m = measured(model, X, y, lambda out, y: functional.cross_entropy(2 * out, y))
    assert (m.loss_function, m.loss_reads) == ("cross_entropy", None)
    m = measured(model, X, y, lambda out, y: (out - y[:, None]).abs().mean())
    assert (m.loss_function, m.loss_reads) == (None, None)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_reads_the_layer_before(recurrent):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.cell, self.last = nn.Linear(6, 5), recurrent(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.cell(self.first(x))[0])

    m = measured(Sequence(), torch.randn(3, 8, 6))
    assert sources(m) == {"first": [], "cell": ["first"], "last": ["cell"]}
