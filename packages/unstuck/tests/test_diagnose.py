"""The arguments of `diagnose`: modes, and errors for a model or a batch that cannot be measured."""

from dataclasses import dataclass

import pytest
import torch
from support.untouched import untouched
from torch import nn
from torch.nn import functional
from unstuck_support.measuring import Forward, measured, mlp, names

import unstuck

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 3


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "said"),
    [
        (lambda x: x, X, TypeError, "model must be a torch.nn.Module, got function: give the model itself"),
        (nn.Linear, X, TypeError, r"model is the class Linear: give an instance, Linear\(...\)"),
        (
            mlp(nn.Tanh),
            (X, Y),
            TypeError,
            r"forward does not accept these inputs .* is a tuple of 2; .* targets",
        ),
        (mlp(nn.Tanh), torch.empty(0, 6), ValueError, r"inputs of shape \(0, 6\) hold no samples"),
        (mlp(nn.Tanh), "text", ValueError, "got str"),
        (mlp(nn.Tanh), (), ValueError, "got none: for a model without inputs"),
        (mlp(nn.Tanh), torch.randn(4, 7), RuntimeError, r"the inputs have the shape \(4, 7\) float32"),
        (mlp(nn.Tanh), {"x": X}, TypeError, r"inputs is a dict; give a tensor for forward\(inputs\)"),
        (nn.Bilinear(6, 6, 2), X, TypeError, r"inputs is a Tensor; give .* a tuple for forward\(\*inputs\)"),
        (
            mlp(nn.Tanh),
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y)),
            ValueError,
            r"inputs is a DataLoader: .* next\(iter\(loader\)\)",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_cause_and_remedy(model, inputs, kind, said):
    with pytest.raises(kind, match=said):
        unstuck.diagnose(model, inputs)


def test_an_error_inside_a_model_is_not_changed():
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        unstuck.diagnose(Forward(lambda s, x: s.fc(x) + "text", fc=nn.Linear(6, 3)), X)
    assert "does not accept" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss_fn", "said"),
    [
        (None, "targets is given without loss_fn"),
        (lambda out, y: None, "loss_fn gives None: let it return the loss"),
        (lambda out, y: functional.cross_entropy(out, y).item(), "got float"),
        (lambda out, y: (functional.cross_entropy(out, y), out), r"a tuple of 2: .*loss_fn\(outputs, targets\)\[0\]"),
        (
            lambda out, y: {"nll": functional.cross_entropy(out, y)},
            r"a dict of 1: .*loss_fn\(outputs, targets\)\['nll'\]",
        ),
        (lambda out, y: functional.cross_entropy(out, y, reduction="none"), r"must give a scalar, got shape \(32,\)"),
    ],
)
def test_a_loss_that_is_not_a_scalar_is_refused(loss_fn, said):
    with pytest.raises(ValueError, match=said):
        unstuck.diagnose(mlp(nn.Tanh), X, Y, loss_fn)


@pytest.mark.parametrize(
    ("loss_fn", "said"),
    [
        (nn.CrossEntropyLoss, r"loss_fn is the class CrossEntropyLoss: give an instance, CrossEntropyLoss\(\)"),
        (
            lambda out: out.mean(),
            r"does not take outputs and targets .*: give .* lambda outputs, targets: loss_fn\(outputs\)",
        ),
        ("mse", "loss_fn must be a function of outputs and targets, got str"),
    ],
)
def test_a_loss_that_is_not_a_function_of_two_is_refused(loss_fn, said):
    with pytest.raises(TypeError, match=said):
        unstuck.diagnose(mlp(nn.Tanh), X, Y, loss_fn)


def test_a_loss_that_does_not_take_the_outputs_of_a_hugging_face_model_is_told_where_its_loss_is():
    @dataclass
    class CausalLMOutput:
        logits: torch.Tensor

    model = Forward(lambda s, x: CausalLMOutput(s.fc(x)), fc=nn.Linear(6, 3))
    for loss_fn, kind in ((functional.cross_entropy, TypeError), (lambda out, y: out.size(), AttributeError)):
        with pytest.raises(
            kind, match=r"does not take a CausalLMOutput: .*, None, lambda outputs, _: outputs.loss"
        ) as e:
            unstuck.diagnose(model, X, Y, loss_fn)
        assert not hasattr(e.value, "__notes__")


def test_a_model_without_floating_point_outputs_is_refused_without_a_loss():
    with pytest.raises(ValueError, match="without a floating-point tensor"):
        unstuck.diagnose(Forward(lambda s, x: s.fc(x).argmax(1), fc=nn.Linear(6, 3)), X)


def test_outputs_may_be_a_dataclass():
    @dataclass
    class Outputs:
        logits: torch.Tensor
        labels: torch.Tensor

    model = Forward(lambda s, x: Outputs(s.fc(x), Y), fc=nn.Linear(6, 3))
    assert measured(model, X).weights[0].gradient > 0


def test_inference_mode_changes_no_number():
    model = mlp(nn.Tanh)
    wanted = measured(model, X, Y, functional.cross_entropy)
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
        around = measured(model, x, y, functional.cross_entropy)
    outside = measured(model, x, y, functional.cross_entropy)
    for m in (around, outside):
        assert m.layers == wanted.layers
        assert m.weights == wanted.weights


def detector():
    """Gives a loss in training mode, and boxes in evaluation mode."""

    def forward(self, x):
        return {"loss": self.drop(self.norm(self.fc(x))).square().mean()} if self.training else [{"boxes": Y}]

    return Forward(forward, fc=nn.Linear(6, 4), norm=nn.BatchNorm1d(4), drop=nn.Dropout(0.5))


@pytest.mark.parametrize("mode", [True, False])
def test_training_mode_changes_nothing_in_the_model(mode):
    model = detector().train(mode)
    with untouched(model):
        d = unstuck.diagnose(model, X, None, lambda outputs, _: outputs["loss"], training=True)
    assert names(d.measurement) == ["fc"]
    assert all(weight.gradient is not None for weight in d.measurement.weights)
    assert d.subject.training


def test_in_training_mode_dropout_drops_and_frozen_norms_stay_frozen():
    seen = {}
    model = Forward(lambda s, x: s.norm(s.drop(s.fc(x))), fc=nn.Linear(6, 4), norm=nn.BatchNorm1d(4), drop=nn.Dropout())
    model.norm.eval()

    def note(module, args, output):
        seen.setdefault(type(module).__name__, module.training)  # in the first pass, which is measured

    for part in (model.norm, model.drop):
        part.register_forward_hook(note)
    unstuck.diagnose(model, X, training=True)
    assert seen == {"BatchNorm1d": False, "Dropout": True}


def test_in_evaluation_mode_norms_that_have_seen_no_data_normalise_by_the_batch_as_in_training():
    blocks = [part for _ in range(6) for part in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Linear(6, 3))
    in_training = unstuck.diagnose(model, X).measurement.profile.sizes
    with untouched(model.eval()):
        fresh = unstuck.diagnose(model, X)
    assert torch.equal(fresh.measurement.profile.sizes, in_training)
    assert "`1`, `4`, `7` and 3 more have seen no data yet" in str(fresh).replace("\n    ", " ")
    model.train()(X)
    used = unstuck.diagnose(model.eval(), X)
    assert not torch.equal(used.measurement.profile.sizes, in_training)
    assert used.measurement.notes == ()


def test_an_error_says_that_the_model_ran_in_evaluation_mode():
    with pytest.raises(TypeError) as caught:
        unstuck.diagnose(detector(), X, None, lambda outputs, _: outputs["loss"])
    assert caught.value.__notes__ == ["the model ran in evaluation mode; training=True runs it as in training"]
    with pytest.raises(KeyError) as caught:
        unstuck.diagnose(detector(), X, None, lambda outputs, _: outputs["other"], training=True)
    assert not hasattr(caught.value, "__notes__")


def test_an_exported_model_is_measured_in_its_own_mode():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1))
    exported = torch.export.export(model, (X,)).module()
    wanted = measured(model, X)
    for training in (False, True):
        m = unstuck.diagnose(exported, X, training=training).measurement
        assert [row.gradient for row in m.layers] == pytest.approx([row.gradient for row in wanted.layers])
        assert [row.weights for row in m.layers] == [row.weights for row in wanted.layers]


def test_a_model_with_gradients_but_without_known_layers_has_a_note():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x)
            return (x.detach()[:, :, None] * weight.detach()).sum(1)

        @staticmethod
        def backward(ctx, gradient):
            return None, ctx.saved_tensors[0].T @ gradient

    model = Forward(lambda s, x: Opaque.apply(x, s.weight), weight=nn.Parameter(torch.randn(6, 3)))
    d = unstuck.diagnose(model, X)
    assert not d.measurement.layers
    assert not d.findings
    assert "any layer, although parameters get gradients" in d.measurement.notes[0]


class Listed(nn.Module):
    """Layers in a list, which PyTorch does not know of."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 8), nn.Linear(8, 8)]
        self.matrix = torch.ones(8, 4, requires_grad=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x @ self.matrix)


def test_layers_in_a_list_are_measured_and_reported_as_not_registered():
    model = Listed()
    m = measured(model, X)
    assert [name for name in names(m) if "tanh" not in name] == ["linear", "linear@2", "matmul", "head"]
    assert all(row.gradient is not None for row in m.layers)
    assert m.strays == ("layers[0].weight", "layers[1].weight", "matrix")
    assert not m.notes


def test_lists_and_dicts_in_submodules_are_searched():
    model = Listed()
    model.layers = [{"first": model.layers[0]}, (model.layers[1],)]
    model.forward = lambda x: model.head(model.layers[1][0](model.layers[0]["first"](x)) @ model.matrix)
    assert measured(nn.Sequential(model), X).strays == (
        "0.layers[0]['first'].weight",
        "0.layers[1][0].weight",
        "0.matrix",
    )


def test_weights_outside_of_all_modules_are_reported():
    others = [nn.Linear(6, 6), nn.Linear(6, 6)]
    m = measured(Forward(lambda s, x: s.fc(others[1](others[0](x))), fc=nn.Linear(6, 3)), X)
    assert not m.strays
    assert m.notes == (
        "weights that train and are not parameters of the model, the first of shape (6, 6), which linear takes in "
        "the model's own forward: model.parameters() does not give them to an optimizer",
    )


def test_products_of_parameters_and_layers_that_forward_makes_are_reported():
    model = Forward(lambda s, x: s.fc(x @ s.scaled), fc=nn.Linear(4, 3))
    model.scaled = nn.Parameter(torch.ones(6, 4)) * 0.1
    assert measured(model, X).strays == ("scaled",)
    made = Forward(lambda s, x: s.fc(nn.Linear(6, 6)(x)), fc=nn.Linear(6, 3))
    assert measured(made, X).strays == ("forward: linear",)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    with unstuck.Monitor(made, every=1) as monitor:
        for _ in range(3):
            made(X).sum().backward()
            optimizer.step()
    assert [m.strays for m in monitor.measurements] == [(), *[("forward: linear",)] * 2]


def test_tied_and_frozen_weights_in_a_list_are_not_strays():
    model = Forward(lambda s, x: s.shared[1](s.shared[0](x)), fc=nn.Linear(6, 6))
    model.shared = [model.fc, nn.Linear(6, 3).requires_grad_(False)]
    m = measured(model, X)
    assert [w for layer in m.layers for w in layer.weights] == ["fc.weight"]
    assert not m.strays
    assert not m.notes


def test_tensors_outside_of_the_model_keep_their_gradient():
    model = Listed()
    kept = torch.ones_like(model.layers[0].weight)
    model.layers[0].weight.grad = kept
    measured(model, X)
    assert model.layers[0].weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert model.layers[1].weight.grad is None
    assert model.matrix.grad is None


def test_inputs_with_gradients_and_teachers_are_not_weights_of_the_model():
    x = X.clone().requires_grad_()
    assert not measured(Forward(lambda s, x: s.fc(x @ x.T), fc=nn.Linear(32, 3)), x).notes
    teacher = nn.Linear(6, 6)

    def forward(self, x):
        with torch.no_grad():
            target = teacher(x)
        return self.fc(x) - target

    assert not measured(Forward(forward, fc=nn.Linear(6, 6)), X).notes
    assert not measured(mlp(nn.Tanh), X, Y, lambda outputs, _: nn.Linear(3, 1)(outputs).mean()).notes
