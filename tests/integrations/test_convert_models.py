"""convert on models that nobody here wrote: their function stays bit for bit, and what is hidden becomes a core."""

import copy
import os

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore import SigmoidCore

os.environ.setdefault("DDE_BACKEND", "pytorch")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def _types_stay():
    """DeepXDE and PINA set PyTorch's default type and device for their own ends."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def converted_like(model, *inputs, take=lambda output: output, **options):
    """Convert a copy; outputs and gradients are those of the model, and its checkpoint loads strictly."""
    changed = copy.deepcopy(model)
    report = sc.convert(changed, **options)
    results = []
    for network in (model, changed):
        network.zero_grad()
        output = take(network(*inputs))
        output.square().sum().backward()
        results.append([output, *(p.grad for _, p in sorted(network.named_parameters()))])
    for before, after in zip(*results, strict=True):
        assert before is after is None or torch.equal(before, after)
    assert type(changed) is type(model)
    changed.load_state_dict(model.state_dict(), strict=True)
    return changed, report


def whys(report, kind):
    return {a.why for a in report.activations if a.kind == kind}


def train(model, inputs, targets, steps=5):
    """One epoch on made data; the losses before and after."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


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
    report = sc.convert(copy.deepcopy(model), nearest="*scale_activation") if gate == "Hardsigmoid" else report
    assert whys(report, gate) == {"its result multiplies another signal"}


def test_every_branch_of_googlenet_with_sigmoids_becomes_cores():
    import torchvision
    from torchvision.models.googlenet import BasicConv2d

    class SigmoidConv2d(BasicConv2d):
        def forward(self, x):
            return torch.sigmoid(self.bn(self.conv(x)))

    model = torchvision.models.googlenet(weights=None, init_weights=True, aux_logits=False)
    for module in model.modules():
        if type(module) is BasicConv2d:
            module.__class__ = SigmoidConv2d
    x = torch.randn(4, 3, 64, 64)
    changed, report = converted_like(model.eval(), x)
    assert len(report.converted) == 57
    assert report.left == report.unseen == ()
    assert changed.inception3a.branch1.sigmoid.num_features == 64
    calibration = sc.calibrate(changed, x)
    assert len(calibration.after.names) == 57
    changed.train()
    losses = train(changed, x, torch.randn(4, 1000))
    assert losses[-1] < losses[0]


def test_the_reused_activations_of_a_torchvision_resnet_get_a_core_for_each_call_if_asked_for():
    import torchvision

    model = with_sigmoids(torchvision.models.resnet18(weights=None)).eval()
    x = torch.randn(2, 3, 64, 64)
    assert converted_like(model, x)[1].converted == ("relu",)
    changed, report = converted_like(model, x, include="*.relu")
    assert len(report.converted) == 17
    assert len(sc.calibrate(changed, x).after.names) == 17


@pytest.mark.parametrize(("name", "gates"), [("resnet18", 0), ("seresnet18", 8)])
def test_timms_resnet_with_sigmoids_that_work_in_place_becomes_cores(name, gates):
    import timm

    model = timm.create_model(name, pretrained=False, act_layer="sigmoid").eval()
    x = torch.randn(4, 3, 64, 64)
    changed, report = converted_like(model, x)
    assert len(report.converted) == 17
    assert sum(a.why == "its result multiplies another signal" for a in report.activations) == gates
    assert len(sc.calibrate(changed, x).after.names) == 17
    changed.train()
    losses = train(changed, x, torch.randn(4, 1000))
    assert losses[-1] < losses[0]


def test_deepxdes_fnn_is_converted_prepared_and_trained():
    import deepxde

    model = deepxde.nn.FNN([2] + [20] * 6 + [1], "tanh", "Glorot uniform").float()
    x = torch.rand(200, 2)
    changed, report = converted_like(model, x)
    assert report.converted == ("tanh", "tanh_1", "tanh_2", "tanh_3", "tanh_4", "tanh_5")
    assert sc.prepare(changed, x, saturation=1.5).after.spread < 1.1
    losses = train(changed, x, x.prod(1, keepdim=True), steps=50)
    assert losses[-1] < losses[0]
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
    losses = train(changed, x, x.prod(1, keepdim=True), steps=50)
    assert losses[-1] < losses[0]


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
        "its result leaves 'pooler', and the forward of the model could not be traced; name it in include= if a layer "
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
    sc.calibrate(changed, {"input_ids": ids})
    changed.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification(changed.config).eval()
    sc.convert(again, include="bert.pooler.activation")
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(again(ids).logits, changed(ids).logits)
