"""ONNX: onnxruntime computes the same as PyTorch, of models and of folded models."""

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore import SigmoidCore
from sigmoidcore.nn import CoreRNN

pytestmark = [
    pytest.mark.integration,
    # PyTorch says this of every recurrent layer: its list of weights is made anew while it is exported.
    pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

LAYERS = {"Gemm", "MatMul", "Add", "Conv"}
ACTIVATIONS = {"Sigmoid", "Tanh"}
SHAPES = {"Reshape", "Flatten", "Transpose", "AveragePool", "MaxPool", "Concat", "Identity"}
OF_A_LOOP = {"Slice", "Squeeze", "Unsqueeze", "Shape", "Expand", "Gather"}
"""How the exporter writes out the steps of a recurrent layer, a plain one as well."""


class LastStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = CoreRNN(3, 8, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Branches(nn.Module):
    """Two convolutions side by side, as in an Inception block."""

    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Conv2d(2, 3, 1), SigmoidCore(3, dim=1, centered=True)
        self.b, self.act_b = nn.Conv2d(2, 4, 3, padding=1), SigmoidCore(4, dim=1, centered=True)
        self.out = nn.Conv2d(7, 2, 3)

    def forward(self, x):
        return self.out(torch.cat([self.act_a(self.a(x)), self.act_b(self.b(x))], 1))


def mlp(centered, scale):
    act = {"centered": centered, "scale": scale}
    return nn.Sequential(
        nn.Linear(8, 16),
        SigmoidCore(16, **act),
        nn.Linear(16, 16, bias=False),
        SigmoidCore(16, **act),
        nn.Linear(16, 3),
    )


def convnet():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), SigmoidCore(4, dim=1, centered=True), nn.AvgPool2d(2)]
    more = [nn.Conv2d(4, 4, 3, padding=1), SigmoidCore(4, dim=1), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers, *more)


MODELS = {
    "mlp of sigmoids": (lambda: mlp(False, 1.0), (16, 8), {"Sigmoid": 2}, set()),
    "mlp of centered cores": (lambda: mlp(True, 1.0), (16, 8), {"Tanh": 2}, set()),
    "mlp of tanhs": (lambda: mlp(True, 2.0), (16, 8), {"Tanh": 2}, set()),
    "convnet": (convnet, (16, 2, 8, 8), {"Tanh": 1, "Sigmoid": 1}, set()),
    "branches": (Branches, (16, 2, 6, 6), {"Tanh": 2}, set()),
    "rnn": (LastStep, (16, 6, 3), {"Tanh": 6}, OF_A_LOOP),
}


def calibrated(name):
    make, shape, _, _ = MODELS[name]
    model, x = make(), torch.randn(shape)
    model(x)  # moves the statistics of norms
    model.eval()
    sc.calibrate(model, x)
    return model, x


def onnx_model(model, x):
    batch = torch.export.Dim("batch")
    return torch.onnx.export(model, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},)).model_proto


def run(proto, x):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_agrees_with_the_model(name, folded):
    model, x = calibrated(name)
    proto = onnx_model(sc.fold(model) if folded else model, x)
    for batch in (x, x[:3]):
        np.testing.assert_allclose(run(proto, batch), model(batch).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_graph_holds_layers_and_sigmoids_only(name):
    _, _, activations, more = MODELS[name]
    model, x = calibrated(name)
    found = Counter(node.op_type for node in onnx_model(sc.fold(model), x).graph.node)
    assert set(found) <= LAYERS | ACTIVATIONS | SHAPES | more
    assert {op: count for op, count in found.items() if op in ACTIVATIONS} == activations


def test_a_graph_of_cores_holds_more_than_layers_and_sigmoids():
    model, x = calibrated("mlp of sigmoids")
    assert "Mul" in {node.op_type for node in onnx_model(model, x).graph.node}


OPERATIONS = {
    "mlp": {"Gemm", "MatMul", "Add", "Tanh"},
    "conv": {"Conv", "Tanh", "Gemm", "MatMul", "Add", "Reshape", "Flatten"},
    "rnn": None,
}
