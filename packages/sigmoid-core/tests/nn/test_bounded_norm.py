"""BoundedNorm: tanh(alpha x) gain weight + bias, in every way in which a module is used."""

import copy
import io

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn import BoundedNorm


def made(weight=True, bias=True, offset=0.0, alpha=0.3):
    norm = BoundedNorm(
        nn.Parameter(torch.randn(8)) if weight else None, nn.Parameter(torch.randn(8)) if bias else None, offset=offset
    )
    norm.core.set_slope(2 * alpha)
    return norm


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_it_computes_the_formula_and_so_do_its_copies_its_fold_and_its_compiled_form(weight, bias, offset):
    torch.compiler.reset()  # PyTorch 2.6 counts what earlier cases compiled
    norm, x = made(weight, bias, offset if weight else 0.0), torch.randn(5, 3, 8)
    factor = norm.weight + offset if weight else 1.0
    expected = torch.tanh(0.3 * x) * norm.gain * factor + (norm.bias if bias else 0.0)
    buffer = io.BytesIO()
    torch.save(norm, buffer)
    buffer.seek(0)
    model = nn.Sequential(norm)
    for same in (
        norm,
        copy.deepcopy(norm),
        torch.load(buffer, weights_only=False),
        sc.fold(model),
        torch.compile(model, backend="aot_eager", fullgraph=True),
        torch.export.export(model, (x,)).module(),
    ):
        torch.testing.assert_close(same(x), expected, rtol=1e-6, atol=1e-6)
    assert not any(type(m).__module__.startswith("sigmoidcore") for m in sc.fold(model).modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_slope_and_gain_stay_float32_and_outputs_have_the_types_of_layer_norm(dtype):
    norm, plain = made(alpha=1e-6), nn.LayerNorm(8)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=dtype):
        assert norm(x).dtype == plain(x).dtype == norm(x.to(dtype)).dtype
    assert norm.to(dtype)(x.to(dtype)).dtype == dtype
    assert made(weight=False, bias=False).to(dtype)(x.to(dtype)).dtype == dtype
    assert norm.core.slope.dtype == norm.gain.dtype == torch.float32


def test_gradients_are_those_of_the_formula():
    norm = made().double()
    assert torch.autograd.gradcheck(lambda x: norm(x), torch.randn(2, 8, dtype=torch.float64, requires_grad=True))
    x = torch.randn(4, 8, dtype=torch.float64)
    norm(x).sum().backward()
    torch.testing.assert_close(norm.weight.grad, (torch.tanh(0.3 * x) * norm.gain).sum(0))


def test_a_state_dict_restores_it_and_that_of_a_norm_resets_it():
    norm, other = made(), made(alpha=5.0)
    norm.gain.fill_(7.0)
    norm.level.fill_(0.2)
    other.load_state_dict(norm.state_dict())
    assert all(torch.equal(other.state_dict()[name], value) for name, value in norm.state_dict().items())
    other.load_state_dict(nn.LayerNorm(8).state_dict())
    assert (float(other.core.slope), float(other.level)) == (1.0, 0.5)
    assert float(other.gain) == pytest.approx(2.4007, abs=1e-4)  # 1 / rms(tanh(g / 2)), g standard normal


def test_on_the_meta_device_it_can_be_reset():
    norm = made().to("meta").to_empty(device="cpu")
    norm.reset_parameters()
    norm.core.reset_parameters()
    assert (float(norm.level), float(norm.core.slope)) == (0.5, 1.0)
