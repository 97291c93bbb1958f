"""The tables of benchmarks/own_data.py are what its first lines say."""

import numpy as np
import pytest

import own_data


def made(name: str, seed: int = 0) -> own_data.Any:
    return own_data.MAKE[name](np.random.default_rng(seed), own_data.SIZES[name])


@pytest.mark.parametrize("seed", range(own_data.SEEDS))
def test_three_to_four_percent_of_the_customers_leave(seed: int) -> None:
    table = made("churn", seed)
    assert 0.03 <= (table["left"] == "yes").mean() <= 0.04
    assert table.isna().any().sum() == 2


def test_arrays_have_their_columns_and_classes() -> None:
    assert made("wide")[0].shape == (1_000, 2_000)
    words, topics = made("text")
    assert words.shape == (3_000, 2_000)
    assert (words != 0).mean() < 0.1
    assert len(np.unique(topics)) == 5
    columns, kinds = made("forest")
    assert columns.shape == (50_000, 54)
    assert ((columns == 0) | (columns == 1)).all(0).sum() == 44
    assert len(np.unique(kinds)) == 7
