"""calibrate in the place of norms: alpha is u / rms(x), and outputs have the size that the norm gave them."""

import copy

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn import BoundedNorm


class Residual(nn.Module):
    """x plus a branch that begins with a norm, many times."""

    def __init__(self, depth=6, width=32):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 5)

    def forward(self, tokens):
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(x)


def sizes(model, inputs):
    """RMS of input, of z = alpha x and of the output of each norm."""
    found = []

    def look(norm, args, output):
        alpha = float(norm.core.slope) / 2 if isinstance(norm, BoundedNorm) else 1.0
        x = args[0]
        found.append([float(t.square().mean().sqrt()) for t in (x, alpha * x, output)])

    handles = [norm.register_forward_hook(look) for norm in model.norms]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return torch.tensor(found).T


@pytest.mark.parametrize("level", [None, 0.25, 1.0])
def test_every_place_has_the_level_and_gives_its_output_the_size_that_the_norm_gave_it(level):
    torch.manual_seed(0)
    model, tokens = Residual(), torch.randint(20, (64, 10))
    for norm in model.norms:
        nn.init.uniform_(norm.weight)
    plain = copy.deepcopy(model)
    sc.convert(model, norms=True)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    report = sc.calibrate(model, tokens, saturation=level)
    _, levels, outputs = sizes(model, tokens)
    torch.testing.assert_close(levels, torch.full((6,), level or 0.5))
    torch.testing.assert_close(outputs, sizes(plain, tokens)[2], rtol=0.1, atol=0)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    torch.testing.assert_close(report.levels, torch.full((6,), level or 0.5, dtype=torch.float64))
    assert report.after.names == tuple(f"norms.{i}.core" for i in range(6))
    again = sc.calibrate(model, tokens)  # keeps the level, and changes nothing
    torch.testing.assert_close(again.slopes, report.slopes, rtol=1e-5, atol=0)


def test_the_profile_falls_with_the_square_of_the_residual_streams_size_as_with_norms():
    torch.manual_seed(0)
    model, tokens = Residual(depth=20), torch.randint(20, (64, 10))
    sc.convert(model, norms=True)
    report = sc.calibrate(model, tokens)
    stream = sizes(model, tokens)[0].double()
    assert report.after.spread > 5
    assert sc.Profile(report.after.names, report.after.sizes * stream**2).spread < 1.5
    assert any("falls with the square" in note for note in report.notes)


def test_a_converted_dynamic_tanh_keeps_the_size_of_its_output():
    torch.manual_seed(0)
    model, tokens = Residual(depth=1), torch.randint(20, (64, 10))
    model.norms[0] = BoundedNorm.of_tanh(torch.tensor(3.0), nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32)))
    before = sizes(model, tokens)
    sc.calibrate(model, tokens, saturation=0.5)
    after = sizes(model, tokens)
    assert before[1] > 2.5
    torch.testing.assert_close(after[1], torch.tensor([0.5]))
    torch.testing.assert_close(after[2], before[2])


def test_with_zeros_alone_a_slope_stays_and_a_note_says_so():
    model, tokens = Residual(depth=2), torch.randint(20, (8, 10))
    nn.init.zeros_(model.embed.weight)
    sc.convert(model, norms=True)
    report = sc.calibrate(model, tokens)
    assert float(model.norms[0].core.slope) == 1.0
    assert "everything that reaches core 'norms.0.core' is 0: its slope stays" in report.notes


def test_numbers_that_are_not_finite_never_enter_a_slope():
    model = Residual(depth=2)
    nn.init.constant_(model.embed.weight, torch.inf)
    sc.convert(model, norms=True)
    with pytest.raises(ValueError, match=r"preactivations of core 'norms.0.core' are not finite"):
        sc.calibrate(model, torch.randint(20, (8, 10)))
    assert float(model.norms[0].core.slope) == 1.0
