"""Networks with skips or gates: against the formulas of their papers."""

import math

import pytest
import torch
from support.problems import problem
from torch import nn

from peers import find
from peers.methods.densenet import DenseBlock
from peers.methods.fixup import FixupBlock, rates
from peers.methods.highway import Highway
from peers.methods.resnet import Residual
from peers.methods.rezero import ReZero


def blocks(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def test_a_residual_block_adds_two_layers_that_are_activated_before():
    given = problem()
    block, *others = blocks(find("resnet").network(given), Residual)
    assert len(others) == 4
    assert [type(m) for m in block.branch] == [nn.BatchNorm1d, nn.ReLU, nn.Linear] * 2
    x = torch.randn(20, 16)
    norm1, _, layer1, norm2, _, layer2 = block.branch
    torch.testing.assert_close(block(x), x + layer2(norm2(layer1(norm1(x).relu())).relu()))


def test_the_inputs_of_the_resnets_head_are_normalised_and_activated():
    *_, norm, relu, head = find("resnet").network(problem())
    assert [type(m) for m in (norm, relu, head)] == [nn.BatchNorm1d, nn.ReLU, nn.Linear]


def test_with_zero_branches_a_network_of_any_depth_begins_as_one_without_blocks():
    given = problem(depth=51)
    model = find("resnet-zero").network(given)
    assert len(blocks(model, Residual)) == 25
    torch.testing.assert_close(model(given.inputs), model[-1](model[0](given.inputs).relu()))
    assert all(layer.weight.any() for block in blocks(model, Residual) for layer in (block.branch[2],))


def test_fixups_first_layers_are_smaller_by_the_root_of_the_number_of_branches():
    """L^(-1 / (2 m - 2)) with m = 2."""
    found = blocks(find("fixup").network(problem(width=100, depth=51)), FixupBlock)
    assert len(found) == 25
    deviations = torch.stack([block.first.weight.std() for block in found])
    assert deviations.mean().item() == pytest.approx(math.sqrt(2 / 100) * 25**-0.5, rel=0.01)


def test_fixup_begins_with_outputs_of_0_and_blocks_that_are_a_relu():
    given = problem()
    model = find("fixup").network(given)
    assert not model(given.inputs).any()
    x = torch.randn(5, 16)
    for block in blocks(model, FixupBlock):
        torch.testing.assert_close(block(x), x.relu())


def test_a_fixup_block_has_four_biases_and_a_scale():
    (block, *_) = blocks(find("fixup").network(problem()), FixupBlock)
    x, w1 = torch.randn(5, 16), block.first.weight
    with torch.no_grad():
        w2 = torch.randn(16, 16)
        block.last.weight.copy_(w2)
        block.scale.fill_(3.0)
        for number, bias in enumerate(block.biases, 1):
            bias.fill_(number / 10)
    inner = ((x + 0.1) @ w1.T + 0.2).relu() + 0.3
    torch.testing.assert_close(block(x), (x + 3 * inner @ w2.T + 0.4).relu())


def test_fixups_numbers_have_a_tenth_of_the_rate():
    model = find("fixup").network(problem())
    layers, numbers = rates(model, 0.01)
    assert (layers["lr"], numbers["lr"]) == (0.01, 0.001)
    assert len(numbers["params"]) == 5 * len(blocks(model, FixupBlock))
    assert len(layers["params"]) + len(numbers["params"]) == len(list(model.parameters()))


def test_rezeros_jacobian_is_the_identity_at_the_start_at_any_depth():
    model = find("rezero").network(problem(depth=200))
    body = model[1:-1]
    assert len(blocks(model, ReZero)) == 199
    jacobian = torch.autograd.functional.jacobian(lambda x: body(x), torch.randn(16))
    assert torch.equal(jacobian, torch.eye(16))


def test_a_layer_of_rezero_is_added_times_its_number():
    layer, x = ReZero(nn.Linear(3, 3)), torch.randn(4, 3)
    nn.init.constant_(layer.a, 0.5)
    torch.testing.assert_close(layer(x), x + layer.layer(x).relu() / 2)


@pytest.mark.parametrize("bias", [-1.0, -3.0])
def test_highway_gates_begin_with_the_bias(bias):
    found = blocks(find("highway").network(problem(), bias), Highway)
    assert all(torch.equal(block.gate.bias, torch.full((16,), bias)) for block in found)


def test_a_highway_layer_mixes_its_layer_and_its_input_by_the_gate():
    layer, x = Highway(nn.Linear(3, 3), nn.Linear(3, 3)), torch.randn(4, 3)
    gate = 1 / (1 + (-layer.gate(x)).exp())
    torch.testing.assert_close(layer(x), layer.layer(x).relu() * gate + x * (1 - gate))
    nn.init.constant_(layer.gate.bias, -100)
    torch.testing.assert_close(layer(x), x)


def test_a_layer_of_a_dense_block_reads_everything_before_it():
    given = problem(width=16, depth=21)
    first, second = blocks(find("densenet").network(given), DenseBlock)
    for block in (first, second):
        assert [layer[2].in_features for layer in block.layers] == [16 + 4 * i for i in range(9)]
        assert {layer[2].out_features for layer in block.layers} == {4}
        assert (block.transition[2].in_features, block.transition[2].out_features) == (16 + 4 * 9, 16)
    x = torch.randn(20, 16)
    joined = x
    for layer in first.layers:
        joined = torch.cat([joined, layer(joined)], 1)
    assert torch.equal(joined[:, :16], x)
    torch.testing.assert_close(first(x), first.transition(joined))


def test_the_last_dense_block_is_as_long_as_the_depth_needs():
    sizes = [len(block.layers) + 1 for block in blocks(find("densenet").network(problem(depth=30)), DenseBlock)]
    assert sizes == [10, 10, 9]
    sizes = [len(block.layers) + 1 for block in blocks(find("densenet").network(problem("conv", depth=20)), DenseBlock)]
    assert sizes == [10, 8]
