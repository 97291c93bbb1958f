"""From layers to the columns of a figure."""

import numpy as np
import pytest

from sigmoidcore.diagnosis.report import thinning
from sigmoidcore.diagnosis.report.depth import Sizes


@pytest.mark.parametrize("layers", [1, 2, 7, 240, 241, 480, 481, 10_000])
def test_layers_of_a_regular_network_fill_all_columns(layers):
    count = thinning.columns(layers, 480)
    assert count <= max(480, 1)
    spans = thinning.spans(np.arange(layers), layers, count)
    covered = {column for first, end in spans for column in range(first, end)}
    assert covered == set(range(count))
    assert all(0 <= first < end <= count for first, end in spans)


def test_a_layer_lies_in_the_middle_of_its_columns():
    assert thinning.spans(np.array([0, 2, 4]), 6, 12) == [(0, 3), (3, 7), (7, 11)]
    assert thinning.spans(np.array([0, 2, 4]), 6, 12, width=1) == [(0, 2), (4, 6), (8, 10)]


def test_a_column_shows_the_mean_of_shares_but_the_farthest_difference_and_both_ends_of_sizes():
    at = np.arange(1000)
    shares = np.zeros((1, 1000))
    shares[0, 500] = 1.0
    assert np.nanmax(thinning.averaged(at, shares, 1000, 10)) == pytest.approx(0.01)
    assert np.nanmin(thinning.farthest(at, -3 * shares, 1000, 10)) == -3
    sizes = Sizes(at, np.where(at == 500, 1e-9, 1.0), np.zeros(0, dtype=np.int64))
    low, high = thinning.envelope(sizes, 1000, 10)
    assert low.tolist() == [1, 1, 1, 1, 1, 1e-9, 1, 1, 1, 1]
    assert high.tolist() == [1] * 10
