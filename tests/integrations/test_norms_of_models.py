"""convert(norms=True) with the norms of Hugging Face's models, and bounded norms in ONNX."""

import copy

import onnx
import onnxruntime
import pytest
import torch
import transformers
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn import BoundedNorm

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

LLAMA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
MODELS = {
    "GPT2": ({"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4}, "GPT2LMHeadModel", 5),
    "Llama": (LLAMA, "LlamaForCausalLM", 5),
    "Gemma": (LLAMA, "GemmaForCausalLM", 5),  # multiplies by 1 + weight
    "Qwen3": (LLAMA, "Qwen3ForCausalLM", 9),  # with norms on queries and keys
}


@pytest.mark.parametrize("name", MODELS)
def test_every_norm_of_a_language_model_is_converted_and_calibrated_and_the_model_trains(name):
    torch.manual_seed(0)
    options, head, count = MODELS[name]
    model = getattr(transformers, head)(getattr(transformers, f"{name}Config")(**options))
    plain, tokens = copy.deepcopy(model).eval(), torch.randint(50, (8, 16))
    report = sc.convert(model, norms=True)
    assert len(report.changed) == count
    assert not any("norm" in type(m).__name__.lower() for m in model.modules() if not isinstance(m, BoundedNorm))
    sc.calibrate(model, {"input_ids": tokens}, saturation=0.25)
    with torch.no_grad():  # nearly linear: the norms' function, but for the sizes of single tokens
        before, after = plain(tokens).logits, model.eval()(tokens).logits
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.9
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(20):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    model.load_state_dict(plain.state_dict(), strict=True)


@pytest.mark.parametrize("fold", [False, True])
def test_in_onnx_it_is_a_tanh(fold, tmp_path):
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    sc.convert(model, norms=True)
    x = torch.randn(5, 3)
    sc.calibrate(model, x)
    torch.onnx.export(sc.fold(model) if fold else model, (x,), tmp_path / "model.onnx", verbose=False)
    operations = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "Tanh" in operations
    assert not operations & {"LayerNormalization", "ReduceMean", "Sqrt"}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-5, atol=1e-5)
