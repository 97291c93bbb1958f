"""Sizes of tensors, the spread, and a profile of sizes."""

import math

import numpy as np
import pytest
import torch

from unstuck.observation.profile import Profile, spread
from unstuck.observation.sizes import norms, row_norms

DTYPES = (torch.float32, torch.float64)
SCALES = (1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30)


def test_norms_are_those_of_numpy_for_every_precision_and_size_and_keep_the_order():
    tensors = [torch.randn(7, 5, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, *DTYPES)]
    tensors += [torch.randn(6, dtype=dtype) * scale for dtype in DTYPES for scale in SCALES]
    tensors += [torch.randn(6, dtype=torch.float64) * 1e200, torch.zeros(3), torch.tensor(-2.0), torch.zeros(0)]
    torch.manual_seed(0)
    tensors = [tensors[i] for i in torch.randperm(len(tensors))]
    largest = [float(t.abs().max()) if t.numel() else 0.0 for t in tensors]
    expected = [m and m * np.linalg.norm(t.double().numpy() / m) for t, m in zip(tensors, largest, strict=True)]
    assert norms(tensors).tolist() == pytest.approx(expected, rel=1e-6, abs=0)
    assert norms([]).shape == (0,)


def test_norms_of_complex_numbers_take_both_parts():
    x = torch.tensor([3 + 4j, 0], dtype=torch.complex64)
    assert norms([x, 0 * x, 1e-20 * x, x.conj()]).tolist() == pytest.approx([5, 0, 5e-20, 5])


def test_row_norms_neither_overflow_nor_vanish():
    x = torch.tensor([[3e200, 4e200], [3e-200, 4e-200]], dtype=torch.float64)
    torch.testing.assert_close(row_norms(x), torch.tensor([5e200, 5e-200], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spread_is_largest_over_smallest(dtype):
    assert spread(torch.tensor([2.0, 8.0, 4.0], dtype=dtype)) == 4.0
    assert spread(torch.tensor([3.0], dtype=dtype)) == 1.0


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([0.0, 1.0], math.inf),
        ([0.0, 0.0], math.inf),
        ([0.0], math.inf),
        ([math.inf, 1.0], math.nan),
        ([math.nan, 1.0], math.nan),
        ([0.0, math.nan], math.nan),
        ([1e-300, 1e300], math.inf),
    ],
)
def test_spread_is_inf_if_a_gradient_is_0_and_nan_if_one_is_not_finite(sizes, expected):
    assert spread(torch.tensor(sizes, dtype=torch.float64)) == pytest.approx(expected, nan_ok=True)


def test_a_profile_prints_as_a_table_with_bars_on_a_log_axis():
    profile = Profile(("layers.0", "layers.10", "end"), torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64))
    assert str(profile) == (
        "gradient profile of 3 cores, spread 1e+04\n"
        "  layers.0   1.000e-04  █\n"
        "  layers.10  1.000e-02  ████████████████\n"
        "  end        1.000e+00  ██████████████████████████████"
    )


def test_gradients_of_0_and_nan_print_without_a_bar():
    profile = Profile(("a", "b", "c"), torch.tensor([0.0, math.nan, 1.0], dtype=torch.float64))
    assert str(profile) == (
        f"gradient profile of 3 cores, spread nan\n  a  0.000e+00\n  b        nan\n  c  1.000e+00  {'█' * 30}"
    )
    assert str(Profile(("a",), torch.zeros(1))) == "gradient profile of 1 core, spread inf\n  a  0.000e+00"
