"""ONNX: onnxruntime computes what a run's network does, from the command's file alone."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parent.parent / "training"))

from support.runs import houses, made_run

from sigmoidcore.cli import main
from sigmoidcore.training.data import Preprocessing
from sigmoidcore.training.use.trained import open_run

pytestmark = pytest.mark.integration

OPERATIONS = {
    "mlp": {"Gemm", "MatMul", "Add", "Tanh"},
    "conv": {"Conv", "Tanh", "Gemm", "MatMul", "Add", "Reshape", "Flatten"},
    "rnn": None,
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_onnxruntime_computes_the_same_for_any_number_of_samples(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    houses().to_parquet("houses.parquet")
    source = "houses.parquet" if kind == "mlp" else "digits"
    options = {"target": "sold"} if kind == "mlp" else {}
    depth = {"mlp": 30, "conv": 4, "rnn": 1}[kind]
    run = open_run(made_run(tmp_path / "run", source, kind=kind, depth=depth, **options))
    assert main(["export", "run", "--format", "onnx"]) == 0
    proto = onnx.load("run.onnx")
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession("run.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        inputs = run.network.arranged(torch.randn(count, *run.preprocessing.inputs.shape))
        with torch.no_grad():
            expected = run.model.eval()(inputs).numpy()
        found = session.run(["outputs"], {"inputs": inputs.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    held = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(held["preprocessing"]) == json.loads(json.dumps(run.preprocessing.description()))
    assert Preprocessing.from_bytes((tmp_path / "run.preprocessing.skops").read_bytes()).alike(run.preprocessing)
    if OPERATIONS[kind] is not None:
        assert {node.op_type for node in proto.graph.node} <= OPERATIONS[kind]
