"""prepare(branches=True): networks of residual branches without norms start with a stream of one size."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.calibration.branches import find_branches


class Attention(nn.Module):
    def __init__(self, width, heads=4):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Transformer(nn.Module):
    def __init__(self, blocks=8, width=32, scale=1.0, in_place=False):
        super().__init__()
        self.embed, self.position, self.head = nn.Embedding(20, width), nn.Embedding(12, width), nn.Linear(width, 20)
        self.attend = nn.ModuleList(Attention(width) for _ in range(blocks))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))
            for _ in range(blocks)
        )
        self.scale, self.in_place = scale, in_place

    def forward(self, tokens):
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        for attend, mlp in zip(self.attend, self.mlps, strict=True):
            x = x + self.scale * attend(x)
            y = self.scale * mlp(x)
            if self.in_place:
                y += x
                x = y
            else:
                x = y + x
        return self.head(x)


class Mixer(nn.Module):
    """Perceptrons over positions and over channels in turn."""

    def __init__(self, blocks=6, positions=16, channels=24):
        super().__init__()
        self.first, self.head = nn.Linear(10, channels), nn.Linear(channels, 3)
        self.mix = nn.ModuleList(nn.Linear(positions, positions) for _ in range(blocks))
        self.act = nn.ModuleList(nn.Sequential(nn.GELU(), nn.Linear(channels, channels)) for _ in range(blocks))

    def forward(self, x):
        x = self.first(x)
        for mix, act in zip(self.mix, self.act, strict=True):
            x = torch.add(x, mix(x.transpose(1, 2)).transpose(1, 2))
            x = x + act(x)
        return self.head(x.mean(1))


def tokens():
    return torch.randint(20, (64, 12), generator=torch.Generator().manual_seed(0))


def streams(model, batch):
    """The size of the residual stream before each branch, by hooks on what the branches read."""
    found = []
    parts = [part for pair in zip(model.attend, model.mlps, strict=True) for part in pair]
    look = lambda part, args: found.append(float(args[0].square().mean().sqrt()))  # noqa: E731
    handles = [part.register_forward_pre_hook(look) for part in parts]
    with torch.no_grad():
        model.eval()(batch)
    for handle in handles:
        handle.remove()
    return torch.tensor(found)


@pytest.mark.parametrize("blocks", [4, 24])
@pytest.mark.parametrize("options", [{}, {"scale": 0.2}, {"in_place": True}])
def test_the_stream_grows_by_an_eighth_and_the_profile_is_as_level_at_any_depth(blocks, options):
    torch.manual_seed(0)
    model, batch = Transformer(blocks, **options), tokens()
    report = sc.prepare(model, batch, branches=True)
    count = 2 * blocks
    expected = (1 + torch.arange(count) / (4 * count)).sqrt()
    torch.testing.assert_close(streams(model, batch), expected, rtol=0.05, atol=0)
    assert len(report.branches) == count
    assert all(branch.size == pytest.approx(0.5 * count**-0.5, rel=0.06) for branch in report.branches)
    assert report.after.spread < 1.25
    assert "calibrated" in str(report)
    assert f"{count} branches" in str(report)
    assert any("write x + " in note for note in report.notes) == ("scale" not in options)


def test_the_profile_is_that_of_the_stream_behind_each_sum():
    torch.manual_seed(0)
    model, batch = Transformer(3), tokens()
    report = sc.prepare(model, batch, branches=True, targets=batch, loss_fn=loss)
    streams, model.eval().mlps[0] = [], nn.Sequential(model.mlps[0])
    outputs = [part.register_forward_hook(lambda _, args, y: streams.append(y)) for part in model.mlps]
    gradients = torch.autograd.grad(loss(model(batch), batch), streams)  # at y it is that of x + y
    sizes = torch.stack([(g.double().square().sum() / len(batch)).sqrt() for g in gradients])
    torch.testing.assert_close(report.after.sizes[1::2], sizes, rtol=1e-4, atol=0)
    for handle in outputs:
        handle.remove()


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def test_bounded_norms_on_queries_and_keys_are_calibrated_with_it():
    torch.manual_seed(0)
    model, batch = Transformer(3), tokens()
    sc.convert(model, norms=True)
    report = sc.prepare(model, batch, branches=True)
    assert len(report.slopes) == 6
    torch.testing.assert_close(report.levels, torch.full((6,), 0.5, dtype=torch.float64))
    assert all(branch.size == pytest.approx(0.5 * 6**-0.5, rel=0.06) for branch in report.branches)


def test_a_mixer_is_prepared_too_and_frozen_layers_keep_their_weights():
    torch.manual_seed(0)
    model, batch = Mixer(), torch.randn(64, 16, 10)
    frozen = model.act[2][1].requires_grad_(False)
    before = frozen.weight.clone()
    report = sc.prepare(model, batch, branches=True)
    assert len(report.branches) == 12
    assert report.after.spread < 1.7
    assert torch.equal(frozen.weight, before)
    assert any("requires_grad=False" in note for note in report.notes)


def test_branches_have_their_layers_and_a_sum_of_two_embeddings_is_none():
    model = Transformer(1)
    branches = find_branches(model, tokens()).branches
    assert [branch.layers for branch in branches] == [("attend.0.qkv", "attend.0.out"), ("mlps.0.0", "mlps.0.2")]
    assert [branch.ends for branch in branches] == [("attend.0.out",), ("mlps.0.2",)]


def test_branches_side_by_side_have_two_ends():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + (self.a(x) + self.b(x))

    model = nn.Sequential(nn.Linear(8, 8), Parallel(), nn.Linear(8, 2))
    report = sc.prepare(model, torch.randn(100, 8), branches=True)
    assert [set(branch.ends) for branch in report.branches] == [{"1.a", "1.b"}]
    assert report.branches[0].size == pytest.approx(0.5, rel=0.06)


def test_a_branch_that_ends_in_a_norm_gets_a_note():
    class PostNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            return x + self.norm(self.layer(x))

    model = nn.Sequential(nn.Linear(8, 8), PostNorm(), PostNorm(), nn.Linear(8, 2))
    report = sc.prepare(model, torch.randn(100, 8), branches=True)
    assert any("multiply these branches by 0.354" in note for note in report.notes)


def test_without_residual_branches_an_error_says_so_and_weights_are_as_they_were():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match="no residual branch was found"):
        sc.prepare(model, torch.randn(10, 8), branches=True)
    assert torch.equal(model[0].weight, before)


class Residual(nn.Module):
    def __init__(self, inner, alpha=1.0):
        super().__init__()
        self.inner, self.alpha = inner, alpha

    def forward(self, x):
        return torch.add(x, self.inner(x), alpha=self.alpha)


def perceptron(width=16):
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def test_branches_that_share_their_last_layer_share_its_size():
    block = Residual(perceptron())
    model, x = nn.Sequential(nn.Linear(16, 16), *[block] * 12, nn.Linear(16, 4)), torch.randn(256, 16)
    report = sc.prepare(model, x, branches=True)
    wanted = 0.5 / 12**0.5
    assert all(wanted / 2 < branch.size < 2 * wanted for branch in report.branches)
    assert len(report.branches) == 12


def test_two_models_prepared_one_after_the_other_differ():
    first, second = (nn.Sequential(nn.Linear(16, 16), Residual(perceptron())) for _ in range(2))
    x = torch.randn(64, 16)
    sc.prepare(first, x, branches=True)
    sc.prepare(second, x, branches=True)
    assert not torch.equal(first[0].weight, second[0].weight)


def test_a_stream_may_start_with_the_inputs_and_a_sum_may_have_a_factor():
    model = nn.Sequential(*(Residual(perceptron(), alpha=0.3) for _ in range(6)), nn.Linear(16, 4))
    report = sc.prepare(model, torch.randn(256, 16), branches=True)
    assert len(report.branches) == 6
    assert report.branches[0].size == pytest.approx(0.5 / 6**0.5, rel=0.3)


def test_layers_with_two_inputs_are_prepared():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x, neighbours):
            return neighbours @ (x @ self.weight)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Graph() for _ in range(4))

        def forward(self, x, neighbours):
            for layer in self.layers:
                x = x + torch.tanh(layer(x, neighbours))
            return x

    report = sc.prepare(Net(), (torch.randn(20, 16), torch.softmax(torch.randn(20, 20), 1)), branches=True)
    assert len(report.branches) == 4


class Attend(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x):
        return x + self.attention(query=x, key=x, value=x, need_weights=False)[0]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(
    ("parts", "layers"),
    [
        ([Attend(), Attend(kdim=16, vdim=16), Attend(bias=False)], "attention"),
        ([nn.TransformerEncoderLayer(16, 4, 32, norm_first=True, batch_first=True) for _ in range(2)], "self_attn"),
    ],
    ids=["attention", "encoder layers"],
)
def test_attention_of_pytorch_is_a_layer_whose_parts_are_drawn_and_held(parts, layers):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), *parts), torch.randn(64, 5, 16)
    report = sc.prepare(model, x, branches=True)
    assert f"1.{layers}" in report.branch_layers
    assert not [note for note in report.notes if "did not run" in note]
    sizes = [branch.size for branch in report.branches]
    assert sizes == pytest.approx([0.5 * len(sizes) ** -0.5] * len(sizes), rel=0.06)
    attention = next(module for module in model.modules() if isinstance(module, nn.MultiheadAttention))
    for size in torch.linalg.svdvals(attention.in_proj_weight.detach().view(3, 16, 16)):
        torch.testing.assert_close(size, size.mean().expand(16))  # orthogonal
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    before = torch.linalg.matrix_norm(attention.in_proj_weight.detach())
    with sc.Equalizer(model, optimizer, branches=report.branch_layers):
        for _ in range(10):
            model(x).square().mean().backward()
            optimizer.step()
    assert torch.linalg.matrix_norm(attention.in_proj_weight.detach()) < 1.001 * before


def test_branches_that_are_added_one_after_the_other_to_one_stream_are_all_seen():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(perceptron() for _ in range(3))

        def forward(self, x):
            first, second, third = self.parts
            return x + first(x) + second(x) + third(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), *(Parallel() for _ in range(4)))
    report = sc.prepare(model, torch.randn(64, 16), branches=True)
    assert [branch.ends for branch in report.branches[:4]] == [
        ("1.parts.0.2",),
        ("1.parts.1.2",),
        ("1.parts.2.2",),
        ("2.parts.0.2",),
    ]
    assert report.branches[-1].stream == pytest.approx(1.11, abs=0.06)
    assert report.after.spread < 1.3


def test_a_tiny_factor_of_branches_gets_a_note():
    class Scaled(Residual):
        def __init__(self):
            super().__init__(perceptron())
            self.gamma = nn.Parameter(torch.full((16,), 1e-6))

        def forward(self, x):
            return x + self.gamma * self.inner(x)

    report = sc.prepare(nn.Sequential(nn.Linear(16, 16), Scaled(), Scaled()), torch.randn(64, 16), branches=True)
    assert "branches are multiplied by 1e-06" in report.notes[0]
    assert "start at 0.354" in report.notes[0]


def test_what_no_branches_can_be_found_in_is_refused_with_the_reason():
    def model():
        return nn.Sequential(nn.Linear(16, 16), Residual(perceptron()))

    x = torch.randn(64, 16)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got generator"):
        sc.prepare(model().parameters(), x, branches=True)
    with pytest.raises(TypeError, match="branches must be True or False, got '1'"):
        sc.prepare(model(), x, branches="1")
    with pytest.raises(ValueError, match="unfreeze those that should train"):
        sc.prepare(model().requires_grad_(False), x, branches=True)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"leave torch\.inference_mode"):
        sc.prepare(model(), x, branches=True)
    computed = model()
    nn.utils.parametrizations.spectral_norm(computed[0])
    with pytest.raises(ValueError, match="prepare first and parametrize then"):
        sc.prepare(computed, x, branches=True)
