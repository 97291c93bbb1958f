"""Stacks: what is measured together is what is measured one by one."""

import torch

from sigmoidcore import stacks
from sigmoidcore.stacks import together


def test_every_tensor_gets_its_own_result_whatever_its_shape_and_dtype():
    shapes = [(3, 4), (2, 4), (3, 4), (3, 4), (2, 4)]
    dtypes = [torch.float32, torch.float32, torch.float64, torch.float32, torch.float32]
    first = [torch.randn(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    weights = [torch.randn(4, dtype=dtype) for dtype in dtypes]
    found = together(lambda x, w: (x * w.unsqueeze(1)).sum(1), first, weights)
    for x, w, got in zip(first, weights, found, strict=True):
        assert got.dtype == x.dtype
        torch.testing.assert_close(got, (x * w).sum(0))


def test_it_makes_one_call_for_what_fits_and_one_for_each_tensor_that_is_larger(monkeypatch):
    monkeypatch.setattr(stacks, "NUMBERS", 10)
    calls = []

    def count(x):
        calls.append(tuple(x.shape))
        return x.flatten(1).sum(1)

    together(count, [torch.ones(4) for _ in range(5)])
    together(count, [torch.ones(3, 4) for _ in range(2)])
    assert calls == [(2, 4), (2, 4), (1, 4), (1, 3, 4), (1, 3, 4)]


def test_of_nothing_it_makes_nothing():
    assert together(lambda x: x, []) == []
