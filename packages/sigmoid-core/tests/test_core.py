"""SigmoidCore: bit for bit nn.Sigmoid as constructed, plain differentiable PyTorch, slope and shift as buffers."""

import copy
import io
import math
import re

import mpmath as mp
import pytest
import torch
import torch._dynamo
from support.copies import COPIES
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck

from sigmoidcore import SigmoidCore, sigmoid_core

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def same_bits(a, b):
    """Equal as bit patterns, so that -0.0 is not 0.0; nan is nan, for its sign and payload depend on the kernel."""
    if a.dtype != b.dtype or not torch.equal(a.isnan(), b.isnan()):
        return False
    return torch.equal(a.where(~a.isnan(), 0.5).view(BITS[a.dtype]), b.where(~b.isnan(), 0.5).view(BITS[b.dtype]))


def values(dtype):
    """512 numbers: random ones of every size, and every special one."""
    info = torch.finfo(dtype)
    sizes = [math.inf, 0.0, 1.0, info.max, info.tiny, info.smallest_normal / 4, info.eps, 88.0, 103.0, 745.0]
    special = [math.nan, *sizes, *(-size for size in sizes)]
    few = torch.tensor(special, dtype=torch.float64).to(dtype)
    many = torch.randn(512 - len(few), dtype=torch.float64) * 10 ** torch.linspace(-6, 3, 512 - len(few)).double()
    return torch.cat([few, many.to(dtype)])


def filled(core, alpha=(0.5, 2.0, 4.0), shift=(0.0, -1.0, 0.3)):
    """The core with unlike slopes and shifts."""
    core.set_slope(torch.tensor(alpha))
    core.set_shift(torch.tensor(shift))
    return core


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("core", "shape"),
    [
        (SigmoidCore(), (512,)),
        (SigmoidCore(8), (64, 8)),
        (SigmoidCore(4, dim=1), (8, 4, 4, 4)),
        (SigmoidCore(4, dim=-3), (8, 4, 4, 4)),
    ],
    ids=["None", "8", "dim=1", "dim=-3"],
)
def test_as_constructed_it_equals_nn_sigmoid_bit_for_bit_forward_and_backward(core, shape, dtype):
    x = values(dtype).reshape(shape)
    cotangent = torch.randn(shape).to(dtype)
    outputs, gradients = [], []
    for function in (core, nn.Sigmoid()):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(cotangent)
        outputs.append(y.detach())
        gradients.append(leaf.grad)
    assert same_bits(*outputs)
    assert same_bits(*gradients)


def exact_core(x, alpha, shift, centered):
    with mp.workdps(50):
        y = 1 / (1 + mp.exp(-mp.mpf(alpha) * (mp.mpf(x) - mp.mpf(shift))))
        return y - mp.mpf(1) / 2 if centered else y


@pytest.mark.parametrize("centered", [False, True])
def test_the_output_is_the_sigmoid_of_alpha_times_x_less_shift(centered):
    for x in (-3.0, -0.5, 1e-12, 0.25, 1.0, 6.0):
        for alpha, shift in ((1.0, 0.0), (4.0, 0.5), (0.25, -2.0)):
            y = sigmoid_core(torch.tensor(x, dtype=torch.float64), alpha, shift, centered=centered)
            known = float(exact_core(x, alpha, shift, centered))
            assert float(y) == pytest.approx(known, rel=1e-14, abs=0), (x, alpha, shift)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dim", [1, -1, -2, 2])
def test_every_neuron_along_dim_has_its_own_slope_and_shift(dim, centered):
    core = filled(SigmoidCore(3, dim=dim, centered=centered))
    x = torch.randn(3, 3, 3, 3)
    y = core(x).movedim(dim, 0)
    for neuron, part in enumerate(x.movedim(dim, 0)):
        z = core.slope[neuron].double() * (part.double() - core.shift[neuron].double())
        torch.testing.assert_close(y[neuron].double(), torch.sigmoid(z) - 0.5 * centered, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("features", "shape"), [(None, ()), (3, (3,))])
def test_slope_and_shift_are_buffers_of_the_state_dict_and_there_are_no_parameters(features, shape):
    core = SigmoidCore(features, alpha=2.5)
    assert list(core.parameters()) == []
    assert dict(core.named_buffers()).keys() == core.state_dict().keys() == {"slope", "shift"}
    assert core.slope.shape == core.shift.shape == core.alpha.shape == shape
    assert bool((core.slope == 2.5).all())
    assert bool((core.shift == 0).all())


def test_a_trainable_core_has_one_parameter_and_its_slope_is_alpha():
    core = SigmoidCore(3, alpha=2.5, trainable=True)
    assert [name for name, _ in core.named_parameters()] == ["log_slope"]
    assert core.state_dict().keys() == {"log_slope", "shift"}
    torch.testing.assert_close(core.alpha.detach(), torch.full((3,), 2.5))


@pytest.mark.parametrize("update", [-1e6, -200.0, -50.0, 0.0, 50.0, 200.0, 1e6])
def test_a_trained_slope_is_positive_and_finite_after_any_update(update):
    core = SigmoidCore(2, trainable=True)
    with torch.no_grad():
        core.log_slope += update
    assert bool((core.alpha > 0).all())
    assert bool(torch.isfinite(core.alpha).all())


@pytest.mark.parametrize("trainable", [False, True])
def test_set_slope_and_set_shift_change_the_tensors_in_place(trainable):
    core = SigmoidCore(3, trainable=trainable)
    tensors = [*core.buffers(), *core.parameters()]
    addresses = [t.data_ptr() for t in tensors]
    core.set_slope(torch.tensor([1.0, 2.0, 3.0]))
    core.set_shift([0.0, -1.0, 1.0])
    torch.testing.assert_close(core.alpha.detach(), torch.tensor([1.0, 2.0, 3.0]))
    assert core.shift.tolist() == [0.0, -1.0, 1.0]
    core.set_slope(4.0)
    torch.testing.assert_close(core.alpha.detach(), torch.full((3,), 4.0))
    after = [*core.buffers(), *core.parameters()]
    assert all(a is b for a, b in zip(tensors, after, strict=True))
    assert [t.data_ptr() for t in after] == addresses


BAD = [0.0, -1.0, math.inf, math.nan, 1e-60, 1e60]


@pytest.mark.parametrize("trainable", [False, True])
def test_a_slope_or_a_shift_that_is_out_of_range_is_an_error_and_changes_nothing(trainable):
    core = SigmoidCore(3, alpha=2.0, trainable=trainable)
    before = copy.deepcopy(core.state_dict())
    for value in (*BAD, torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match="a slope must be a positive finite number, got "):
            core.set_slope(value)
    for value in (math.nan, math.inf, -math.inf, torch.tensor([0.0, math.nan, 1.0])):
        with pytest.raises(ValueError, match="a shift must be finite, got "):
            core.set_shift(value)
    assert all(torch.equal(core.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({name: v}, f"{name} must be a positive finite number, got {v}") for name in ("alpha", "scale") for v in BAD),
        *(({"num_features": n}, f"num_features must be at least 1, or None for one slope a layer, got {n}")
          for n in (0, -3)),
    ],
)  # fmt: skip
def test_an_argument_out_of_range_is_an_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SigmoidCore(**arguments)


@pytest.mark.parametrize(("dim", "shape"), [(-1, (2, 4)), (-1, (2, 3, 1)), (-1, ()), (1, (3,))])
def test_an_input_with_another_number_of_features_is_an_error_that_names_both(dim, shape):
    message = f"SigmoidCore has 3 features in dimension {dim}, but the input has shape {shape}; set num_features"
    with pytest.raises(ValueError, match=re.escape(message)):
        SigmoidCore(3, dim=dim)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("core", "text"),
    [
        (SigmoidCore(), "SigmoidCore()"),
        (SigmoidCore(64), "SigmoidCore(64)"),
        (SigmoidCore(64, alpha=4.0, centered=True), "SigmoidCore(64, centered=True)"),
        (SigmoidCore(8, dim=1, trainable=True), "SigmoidCore(8, dim=1, trainable=True)"),
        (SigmoidCore(centered=True, trainable=True), "SigmoidCore(centered=True, trainable=True)"),
    ],
)
def test_it_prints_as_it_was_constructed_without_its_slopes(core, text):
    assert repr(core) == text


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_first_and_second_derivatives_are_those_of_finite_differences(centered, trainable):
    core = filled(SigmoidCore(3, centered=centered, trainable=trainable)).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    arguments = (x, core.log_slope) if trainable else (x,)

    def function(x, *_):
        return core(x)

    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


def test_torch_func_gives_the_exact_derivatives():
    core = filled(SigmoidCore(3)).double()
    x = torch.randn(3, dtype=torch.float64)

    def exact(order):
        rows = []
        for alpha, shift, value in zip(core.slope.tolist(), core.shift.tolist(), x.tolist(), strict=True):
            with mp.workdps(40):
                rows.append(float(mp.diff(lambda t, a=alpha, m=shift: 1 / (1 + mp.exp(-a * (t - m))), value, order)))
        return torch.tensor(rows, dtype=torch.float64)

    def total(x):
        return core(x).sum()

    torch.testing.assert_close(torch.func.grad(total)(x), exact(1))
    torch.testing.assert_close(torch.func.hessian(total)(x), torch.diag(exact(2)))
    _, tangent = torch.func.jvp(core, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, exact(1))
    per_sample = torch.func.vmap(torch.func.grad(total))(x.expand(5, 3))
    torch.testing.assert_close(per_sample, exact(1).expand(5, 3))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("features", "shape"), [(None, (2, 3)), (3, (2, 3))])
def test_it_compiles_as_one_graph_that_a_changed_slope_does_not_compile_again(features, shape, centered):
    torch._dynamo.reset()
    core, counter = SigmoidCore(features, centered=centered), CompileCounter()
    compiled = torch.compile(core, backend=counter, fullgraph=True)
    x = torch.randn(shape)
    for alpha in (1.0, 2.0, 0.1):
        core.set_slope(alpha)
        core.set_shift(alpha - 1)
        torch.testing.assert_close(compiled(x), core(x), rtol=0, atol=1e-7 if centered else 0)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("features", [None, 3])
def test_the_outputs_dtype_is_the_inputs(features, trainable, centered, dtype):
    core = SigmoidCore(features, centered=centered, trainable=trainable)
    assert core(torch.zeros(2, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_slope_and_shift_stay_float32_when_the_model_is_cast_to_half_precision(cast):
    model = nn.Sequential(nn.Linear(3, 3), filled(SigmoidCore(3), alpha=(0.1234567, 2.0, 1.0)))
    slope, shift = model[1].slope.clone(), model[1].shift.clone()
    getattr(model, cast)()
    assert model[0].weight.dtype in (torch.float16, torch.bfloat16)
    assert same_bits(model[1].slope, slope)
    assert same_bits(model[1].shift, shift)
    model.float()
    assert same_bits(model[1].slope, slope)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_core_made_on_the_meta_device_takes_memory_and_state_later(trainable):
    with torch.device("meta"):
        core = SigmoidCore(3, trainable=trainable)
    assert core.shift.is_meta
    assert core(torch.zeros(2, 3, device="meta")).is_meta
    core.half()
    assert core.shift.dtype == torch.float32
    core = core.float().to_empty(device="cpu")
    source = filled(SigmoidCore(3, trainable=trainable))
    core.load_state_dict(source.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(core(x), source(x))


def by_state_dict(core):
    other = SigmoidCore(core.num_features, dim=core.dim, alpha=9.0, centered=core.centered, trainable=core.trainable)
    file = io.BytesIO()
    torch.save(core.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return other


@pytest.mark.parametrize("copied", [*COPIES, by_state_dict])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_copy_computes_the_same_and_shares_nothing(copied, trainable):
    core = filled(SigmoidCore(3, dim=1, centered=True, trainable=trainable))
    other = copied(core)
    x = torch.randn(2, 3, 4)
    assert repr(other) == repr(core)
    assert torch.equal(other(x), core(x))
    other.set_slope(7.0)
    other.set_shift(5.0)
    torch.testing.assert_close(core.alpha.detach(), torch.tensor([0.5, 2.0, 4.0]))
    assert core.shift.tolist() == pytest.approx([0.0, -1.0, 0.3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_centered_core_of_slope_and_scale_2_is_tanh_bit_for_bit(dtype: torch.dtype) -> None:
    x = torch.linspace(-30, 30, 1001, dtype=dtype)
    core = SigmoidCore(alpha=2.0, centered=True, scale=2.0).to(dtype)
    assert torch.equal(core(x), torch.tanh(x))
    assert "scale=2" in repr(core)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_state_dict_of_the_plain_model_makes_the_core_the_plain_activation_again(trainable: bool) -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid())
    model = nn.Sequential(nn.Linear(3, 4), SigmoidCore(4, trainable=trainable))
    model[1].set_slope(7.0)
    model[1].set_shift(2.0)
    state = plain.state_dict()
    model.load_state_dict(state, strict=True)
    x = torch.randn(5, 3)
    assert torch.equal(model(x), plain(x))
    assert list(state) == ["0.weight", "0.bias"]


def test_slopes_and_shifts_beyond_float16_give_no_nan_there():
    core = SigmoidCore(2, alpha=1e6, centered=True)
    core.set_shift(torch.tensor([0.0, 1e6]))
    output = core(torch.tensor([[0.0, 1.0], [1e-3, -1.0]], dtype=torch.float16))
    assert output.dtype == torch.float16
    assert output.tolist() == [[0.0, -0.5], [0.5, -0.5]]
