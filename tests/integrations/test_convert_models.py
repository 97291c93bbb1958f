"""convert on models that nobody here wrote: their function stays, and what is hidden becomes a core."""

import copy
import math
import os
import pickle

import pytest
import torch
from torch import fx, nn

import sigmoidcore as sc
from sigmoidcore import SigmoidCore

os.environ.setdefault("DDE_BACKEND", "pytorch")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def converted_like(model, *inputs, take=lambda output: output, **options):
    """Convert a copy; outputs and gradients are those of the model, and its checkpoint loads strictly.

    They are the same bit for bit if the layers run one by one, and to rounding where some run as one.
    """
    changed = copy.deepcopy(model)
    report = sc.convert(changed, **options)
    torch.testing.assert_close(take(changed(*inputs)), take(model(*inputs)), rtol=1e-4, atol=1e-5)
    results = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)  # which sees each layer
    for network in (model, changed):
        network.zero_grad()
        output = take(network(*inputs))
        output.square().sum().backward()
        results.append([output, *(p.grad for _, p in sorted(network.named_parameters()))])
    for before, after in zip(*results, strict=True):
        assert before is after is None or torch.equal(before, after)
    handle.remove()
    assert type(changed) is type(model)
    changed.load_state_dict(model.state_dict(), strict=True)
    return changed, report


def whys(report, kind):
    return {a.why for a in report.activations if a.kind == kind}


def train(model, inputs, targets, steps=5, batches=2, take=lambda output: output):
    """Epochs on a few made batches with an Equalizer that looks at each step; mean losses by epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        for _ in range(steps):
            epoch = []
            for x, y in zip(inputs.chunk(batches), targets.chunk(batches), strict=True):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(take(model(x)).as_subclass(torch.Tensor), y)
                loss.backward()
                optimizer.step()
                epoch.append(float(loss.detach()))
            losses.append(sum(epoch) / batches)
    assert len(equalizer.history) == steps * batches
    assert all(math.isfinite(loss) for loss in losses)
    return losses, equalizer


def folds(model, inputs, take=lambda output: output):
    """The folded copy computes the same and has nothing of sigmoidcore.

    The outputs of an untrained deep network hardly depend on the inputs: float64 tells a right copy from a wrong one.
    """
    model.eval()
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        exact = copy.deepcopy(model).to(dtype)
        folded, x = sc.fold(exact), inputs.to(dtype)
        with torch.no_grad():
            expected, found = take(exact(x)), take(folded(x))
        assert float(expected.std(0).max()) > 1e-7
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert all(not type(m).__module__.startswith("sigmoidcore") for m in folded.modules())
    assert all("forward" not in m.__dict__ for m in folded.modules())
    return folded


IDENTITIES = ["1.0", "1.1", "2.1", "3.1", "4.1"]
"""The blocks of a ResNet whose residual sum adds their input: a slope cannot go into that."""


def graph_modules(folded):
    return [name for name, module in folded.named_modules() if isinstance(module, fx.GraphModule)]


def with_sigmoids(model):
    """Put nn.Sigmoid in the place of every nn.ReLU."""
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            setattr(model, name, nn.Sigmoid())
        else:
            with_sigmoids(child)
    return model


@pytest.mark.parametrize(
    ("name", "gate", "count"), [("mobilenet_v3_small", "Hardsigmoid", 9), ("efficientnet_b0", "Sigmoid", 16)]
)
def test_the_gates_of_squeeze_excite_are_left_alone(name, gate, count):
    import torchvision

    model = getattr(torchvision.models, name)(weights=None).eval()
    changed, report = converted_like(model, torch.randn(2, 3, 64, 64))
    assert report.converted == report.unseen == ()
    assert sum(a.kind == gate for a in report.activations) == count
    assert not any(isinstance(m, SigmoidCore) for m in changed.modules())
    assert whys(report, gate) == {
        "is not a sigmoid" if gate == "Hardsigmoid" else "its result multiplies another signal"
    }
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(sc.fold(changed)(x), model(x))
    with pytest.raises(ValueError, match="the model has no cores"):
        sc.calibrate(changed, x)


def test_every_branch_of_googlenet_with_sigmoids_becomes_cores():
    import torchvision
    from torchvision.models.googlenet import BasicConv2d

    class SigmoidConv2d(BasicConv2d):
        def forward(self, x):
            return torch.sigmoid(self.bn(self.conv(x)))

    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False, num_classes=10)
    for module in model.modules():
        if type(module) is BasicConv2d:
            module.__class__ = SigmoidConv2d
    x = torch.randn(40, 3, 64, 64)
    changed, report = converted_like(model.eval(), x)
    assert len(report.converted) == 57
    assert report.left == report.unseen == ()
    assert changed.inception3a.branch1.sigmoid.num_features == 64
    calibration = sc.calibrate(changed, x)
    assert len(calibration.after.names) == 57
    assert calibration.after.spread < calibration.before.spread / 100
    assert any("a normalisation scales" in note for note in calibration.notes)
    _, equalizer = train(changed.train(), x, torch.randn(40, 10))  # slopes of branches follow no profile
    assert all(len(sample.log_sizes) == 57 and sample.slopes == 0 for sample in equalizer.history)
    folded = folds(changed, x)
    assert {name for name, _ in folded.named_modules()} == {name for name, _ in model.named_modules()}
    assert [type(m) for m in folded.modules()] == [type(m) for m in model.modules()]


def test_the_reused_activations_of_a_torchvision_resnet_get_a_core_for_each_call_if_asked_for():
    import torchvision

    model = with_sigmoids(torchvision.models.resnet18(weights=None, num_classes=10)).eval()
    x = torch.randn(8, 3, 64, 64)
    assert converted_like(model, x)[1].converted == ("relu",)
    changed, report = converted_like(model, x, include="*.relu")
    assert len(report.converted) == 17
    calibration = sc.calibrate(changed, x)
    assert len(calibration.after.names) == 17
    assert calibration.after.spread < calibration.before.spread / 100
    losses, _ = train(changed.train(), x, torch.randn(8, 10))
    assert losses[-1] < losses[0]
    folded = folds(changed, x)
    assert graph_modules(folded) == [f"layer{block}{k}" for block in IDENTITIES for k in ("", ".relu_1")]
    torch.testing.assert_close(pickle.loads(pickle.dumps(folded))(x), folded(x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "gates"), [("resnet18", 0), ("seresnet18", 8)])
def test_timms_resnet_with_sigmoids_that_work_in_place_becomes_cores(name, gates):
    import timm

    options = {"pretrained": False, "act_layer": "sigmoid", "num_classes": 10}
    model = timm.create_model(name, zero_init_last=False, **options).eval()
    x = torch.randn(8, 3, 64, 64)
    changed, report = converted_like(model, x)
    assert len(report.converted) == 17
    assert sum(a.why == "its result multiplies another signal" for a in report.activations) == gates
    calibration = sc.calibrate(changed, x)
    assert len(calibration.after.names) == 17
    assert calibration.after.spread < calibration.before.spread / 100
    losses, _ = train(changed.train(), x, torch.randn(8, 10))
    assert losses[-1] < losses[0]
    folded = folds(changed, x)
    blocks = IDENTITIES if not gates else [f"{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert graph_modules(folded) == [f"layer{block}.act2{k}" for block in blocks for k in ("", ".sigmoid")]
    assert type(folded.layer1[0].act1) is type(model.layer1[0].act1)
    torch.testing.assert_close(pickle.loads(pickle.dumps(folded))(x), folded(x), rtol=0, atol=0)


def test_a_branch_that_timm_starts_at_zero_has_no_gradient_and_the_report_says_so():
    import timm

    model = timm.create_model("resnet18", pretrained=False, act_layer="sigmoid", num_classes=10)
    sc.convert(model)
    calibration = sc.calibrate(model, torch.randn(4, 3, 64, 64))
    assert calibration.after.spread == math.inf
    assert any("a gradient is 0" in note for note in calibration.notes)


def test_deepxdes_fnn_is_converted_prepared_and_trained():
    import deepxde

    model = deepxde.nn.FNN([2] + [20] * 6 + [1], "tanh", "Glorot uniform").float()
    x = torch.rand(200, 2)
    changed, report = converted_like(model, x)
    assert report.converted == ("tanh", "tanh_1", "tanh_2", "tanh_3", "tanh_4", "tanh_5")
    assert sc.prepare(changed, x, saturation=1.5).after.spread < 1.1
    losses, equalizer = train(changed, x, x.prod(1, keepdim=True), steps=20)
    assert losses[-1] < losses[0]
    assert max(sample.spread for sample in equalizer.history) < 10
    folded = folds(changed, x)
    assert type(folded) is type(model)
    model.load_state_dict(folded.state_dict(), strict=True)
    torch.testing.assert_close(model(x), changed(x), rtol=1e-5, atol=1e-5)
    changed.apply_output_transform(lambda x, y: x[:, :1] * y)
    with pytest.raises(RuntimeError, match="_output_transform"):
        changed(x)
    model.apply_output_transform(lambda x, y: x[:, :1] * y)
    assert len(converted_like(model, x)[1].converted) == 6


def test_pinas_feed_forward_is_converted_prepared_and_trained():
    from pina.model import FeedForward

    model = FeedForward(2, 1, inner_size=20, n_layers=5)
    x = torch.rand(200, 2)
    changed, report = converted_like(model, x)
    assert len(report.converted) == 5
    assert report.left == report.unseen == ()
    assert sc.prepare(changed, x, saturation=1.5).after.spread < 1.1
    losses, equalizer = train(changed, x, x.prod(1, keepdim=True), steps=20)
    assert losses[-1] < losses[0]
    assert max(sample.spread for sample in equalizer.history) < 10
    folded = folds(changed, x)
    model.load_state_dict(folded.state_dict(), strict=True)
    torch.testing.assert_close(model(x), changed(x), rtol=1e-5, atol=1e-5)


def tiny_bert(cls):
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37, num_labels=3
    )
    return getattr(transformers, cls)(config).eval()


def test_the_pooler_of_bert_is_left_with_the_remedy_for_its_forward_cannot_be_traced():
    model = tiny_bert("BertModel")
    changed, report = converted_like(model, torch.randint(0, 50, (2, 7)), take=lambda o: o.pooler_output)
    assert report.converted == ()
    assert whys(report, "Tanh") == {
        "its result leaves 'pooler', and the forward of the model cannot be traced; name it in include= if a layer "
        "reads it"
    }
    assert type(changed.pooler.activation) is nn.Tanh
    assert "" in dict(report.unseen)


def test_the_pooler_of_a_bert_classifier_is_converted_if_asked_for_and_can_be_saved(tmp_path):
    import transformers

    model = tiny_bert("BertForSequenceClassification")
    ids = torch.randint(0, 50, (8, 7))
    changed, report = converted_like(model, ids, take=lambda o: o.logits, include="bert.pooler.activation")
    assert report.converted == ("bert.pooler.activation",)
    assert changed.bert.pooler.activation.num_features == 32
    calibration = sc.calibrate(changed, {"input_ids": ids})
    assert calibration.after.names == ("bert.pooler.activation",)
    assert calibration.after.spread == 1  # of one core
    changed.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification(changed.config).eval()
    sc.convert(again, include="bert.pooler.activation")
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(again(ids).logits, changed(ids).logits)
