"""A run's network comes back as it was, or not at all."""

import contextlib
import random

import pytest
import torch
from safetensors.torch import load_file

from sigmoidcore.training.data import InputError
from sigmoidcore.training.networks import network
from sigmoidcore.training.runs.weights import checksum, read_network, save_network

SIZES = {"in_features": 5, "width": 8, "depth": 3, "out_features": 2}


@pytest.fixture
def saved(tmp_path):
    """The file of a network."""
    return save_network(tmp_path / "model.safetensors", network("mlp", **SIZES))


def test_every_flipped_bit_is_found(saved):
    whole = saved.read_bytes()
    before = load_file(saved)
    chance = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        place = chance.randrange(len(whole))
        damaged[place] ^= 1 << chance.randrange(8)
        saved.write_bytes(damaged)
        with contextlib.suppress(InputError):
            again = read_network(saved)  # it can be read: it was a space that fills the header up
            assert all(torch.equal(again.model.state_dict()[name], tensor) for name, tensor in before.items())
            assert again.sizes == SIZES


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_file_is_an_error_with_the_remedy(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(InputError, match="is not a safetensors file"):
        read_network(saved)


@pytest.mark.parametrize(
    ("name", "sizes", "error"),
    [("transformer", {}, "no architecture"), ("mlp", {**SIZES, "heads": 2}, "'heads' is unknown or missing")],
)
def test_an_unknown_architecture_or_size_is_an_error(name, sizes, error):
    with pytest.raises(ValueError, match=error):
        network(name, **sizes)


def test_names_dtypes_shapes_and_bytes_are_in_the_checksum():
    base = {"a": torch.zeros(2)}
    others = [
        ({}, {"b": torch.zeros(2)}),
        ({}, {"a": torch.zeros(2, dtype=torch.int32)}),
        ({}, {"a": torch.zeros(2, 1)}),
        ({}, {"a": torch.tensor([0.0, 1.0])}),
        ({"x": "1"}, base),
        ({}, {"a": torch.tensor(0.0)}),
    ]
    assert len({checksum({}, base), *(checksum(*other) for other in others)}) == len(others) + 1
