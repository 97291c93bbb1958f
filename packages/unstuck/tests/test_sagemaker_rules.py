"""The peers' rules, each on an example by hand, just beyond and just within its threshold."""

import math

import pytest
import torch
from torch import Tensor, nn

from _sagemaker_rules import RULES, Step, Trial, recorded

X = torch.linspace(-1, 1, 20)


def trial(kind: str = "relu", **tensors: Tensor) -> Trial:
    """One step; what is not given is harmless."""
    harmless = X.reshape(4, 5)
    step = {"weights": harmless, "gradients": harmless, "inputs": harmless, "outputs": harmless} | tensors
    return Trial({"a": kind}, [Step(1.0, *({"a": step[k]} for k in ("weights", "gradients", "inputs", "outputs")))])


def inputs(kind: str, *values: float) -> Trial:
    """Each number is a neuron, for nine samples."""
    return trial(kind, inputs=torch.tensor(values).expand(9, -1))


def weights(*steps: Tensor) -> Trial:
    return Trial({}, [Step(1.0, {"a.weight": w}, {"a.weight": X}, {}, {}) for w in steps])


def losses(*values: float) -> Trial:
    return Trial({}, [Step(value, {}, {}, {}, {}) for value in values])


@pytest.mark.parametrize(
    ("rule", "beyond", "within"),
    [
        ("VanishingGradient", trial(gradients=torch.full((3,), 0.9e-7)), trial(gradients=torch.full((3,), 1.1e-7))),
        ("ExplodingTensor", trial(weights=torch.tensor([1.0, math.inf])), trial(weights=torch.tensor([1.0, 1e38]))),
        ("SaturatedActivation", inputs("tanh", 9.6, -9.6, 0.0), inputs("tanh", 9.6, -9.4, 0.0)),
        (
            "SaturatedActivation",
            trial("sigmoid", inputs=-24 * torch.ones(9, 4)),
            trial("sigmoid", inputs=-22 * torch.ones(9, 4)),
        ),
        ("DeadRelu", inputs("relu", -1.0, -1.0, 1.0), inputs("relu", -1.0, 1.0, 1.0)),
        (
            "PoorWeightInitialization",
            trial(gradients=torch.linspace(0, 0.001, 21)),
            trial(gradients=torch.linspace(0, 0.0012, 21)),
        ),
        ("WeightUpdateRatio", weights(torch.ones(4), 12 * torch.ones(4)), weights(torch.ones(4), 10 * torch.ones(4))),
        ("WeightUpdateRatio", weights(torch.ones(4), torch.ones(4)), weights(torch.ones(4), 1.001 * torch.ones(4))),
        ("UnchangedTensor", weights(*[torch.ones(2)] * 4), weights(*(torch.ones(2) * (1 + i) for i in range(4)))),
        ("LossNotDecreasing", losses(*[1.0] * 11), losses(*[1.0] * 10, 0.9)),
    ],
)
def test_a_rule_fires_beyond_its_published_threshold_and_not_within(rule: str, beyond: Trial, within: Trial) -> None:
    assert RULES[rule](beyond) is not None
    assert RULES[rule](within) is None


def test_variances_of_relu_inputs_that_differ_more_than_tenfold_are_a_poor_initialization() -> None:
    for factor, fires in ((3.0, False), (3.5, True)):
        step = Step(1.0, {}, {"w": X}, {"a": X, "b": factor * X}, {})
        assert (RULES["PoorWeightInitialization"](Trial({"a": "relu", "b": "relu"}, [step])) is not None) is fires


def test_the_records_are_those_of_the_training() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    x = torch.randn(8, 3)
    before = model[0](x).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []
    trained = recorded(
        model, lambda _: (x, torch.zeros(8, 1)), nn.functional.mse_loss, optimizer, 2, lambda: calls.append(1)
    )
    first, second = trained.steps
    assert len(calls) == 2
    assert torch.equal(first.inputs["1"], before)
    assert torch.equal(first.outputs["1"], before.clamp(min=0))
    assert torch.allclose(first.weights["0.weight"] - 0.1 * first.gradients["0.weight"], second.weights["0.weight"])
