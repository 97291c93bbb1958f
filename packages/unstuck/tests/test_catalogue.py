"""The cases are what they claim to be: measured with autograd and hooks alone, without the probe."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from catalogue import BROKEN, HEALTHY
from catalogue.case import Case


def chosen(which: Callable[[Case], bool], catalogue: dict[str, tuple[Case, ...]] = BROKEN) -> list[object]:
    cases = [case for cases in catalogue.values() for case in cases if which(case) and not case.slow]
    return [pytest.param(case, id=case.name) for case in cases]


def only(*identifiers: str) -> list[object]:
    return chosen(lambda case: set(case.rules) <= set(identifiers))


class Seen:
    """Outputs of the modules, and the gradient size that came back to them, after the case's training, if any."""

    def __init__(self, case: Case) -> None:
        self.model, inputs, targets, loss_fn = case.problem()
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, float] = {}
        self.losses: list[float] = []
        self.updates: dict[str, list[float]] = {name: [] for name, _ in self.model.named_parameters()}
        for name, module in self.model.named_modules():
            if not any(module.children()):
                module.register_forward_hook(self._seen(name))
        optimizer = case.optimizer(self.model.parameters())
        for _ in range(case.steps):
            before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            optimizer.zero_grad()
            self.losses.append(self._backward(inputs, targets, loss_fn))
            optimizer.step()
            for name, parameter in self.model.named_parameters():
                change = (parameter.detach() - before[name]).norm() / before[name].norm()
                self.updates[name].append(float(change))
        optimizer.zero_grad()
        self.losses.append(self._backward(inputs, targets, loss_fn))

    def _backward(self, inputs: Tensor, targets: Tensor, loss_fn: Callable[[object, object], Tensor]) -> float:
        loss = loss_fn(self.model(inputs), targets)
        loss.backward()
        return loss.item()

    def _seen(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, given: object, result: object) -> None:
            output = result[0] if isinstance(result, tuple) else result
            self.outputs[name] = output.detach().double().clone()
            if output.requires_grad:
                output.register_hook(lambda g: self.gradients.__setitem__(name, float(g.detach().double().norm())))

        return hook

    def named(self, case: Case) -> list[str]:
        """The right layers, as modules that ran."""
        return [name for name in case.layers if name in self.outputs]


@pytest.mark.parametrize("case", only("US101"))
def test_less_than_a_thousandth_of_the_gradient_reaches_the_layers_where_it_vanishes(case: Case) -> None:
    seen = Seen(case)
    assert min(seen.gradients[name] for name in seen.named(case)) < 1e-3 * max(seen.gradients.values())


@pytest.mark.parametrize("case", only("US102"))
def test_more_than_a_thousand_times_the_gradient_reaches_the_layers_where_it_explodes(case: Case) -> None:
    seen = Seen(case)
    last = next(iter(seen.gradients.values()))  # the backward pass begins at the last layer
    assert max(seen.gradients[name] for name in seen.named(case)) > 1e3 * last


@pytest.mark.parametrize("case", only("US103"))
def test_the_gradient_at_the_first_step_is_tiny(case: Case) -> None:
    model, inputs, targets, loss_fn = case.problem()
    inputs.requires_grad_()
    loss_fn(model(inputs), targets).backward()
    assert inputs.grad is not None
    sizes = inputs.grad.double().norm(dim=(0, 2))
    assert float(sizes[0] / sizes[-1]) < 1e-6


def relative_slope(module: nn.Module, y: Tensor) -> Tensor:
    if isinstance(module, nn.Sigmoid):
        return 4 * y * (1 - y)
    assert isinstance(module, nn.Tanh)
    return 1 - y.square()


@pytest.mark.parametrize("case", only("US201"))
def test_more_than_half_of_the_neurons_have_less_than_a_twentieth_of_their_slope(case: Case) -> None:
    seen = Seen(case)
    for name in seen.named(case):
        y = seen.outputs[name]
        slopes = relative_slope(seen.model.get_submodule(name), y)
        features = slopes.transpose(1, -1).flatten(0, -2) if y.dim() == 4 else slopes.flatten(0, -2)
        assert (features.mean(0) < 0.05).double().mean() > 0.5


@pytest.mark.parametrize("case", only("US202"))
def test_more_than_nine_tenths_of_the_units_are_flat_for_every_sample(case: Case) -> None:
    seen = Seen(case)
    for name in seen.named(case):  # a Linear layer, if its ReLU is a function
        y = seen.outputs[name]
        top = 6.0 if isinstance(seen.model.get_submodule(name), nn.ReLU6) else math.inf
        flat = (y <= 0) | (y >= top)
        rows = flat.transpose(1, -1).flatten(0, -2) if y.dim() == 4 else flat.flatten(0, -2)
        assert rows.all(0).double().mean() > 0.9


@pytest.mark.parametrize("case", only("US203"))
def test_the_samples_differ_by_less_than_a_thousandth_of_their_size(case: Case) -> None:
    seen = Seen(case)
    for name in seen.named(case) or list(seen.outputs):
        y = seen.outputs[name]
        assert y.var(0, correction=0).mean().sqrt() < 1e-3 * y.square().mean().sqrt()


@pytest.mark.parametrize("case", only("US401"))
def test_a_number_is_not_finite(case: Case) -> None:
    seen = Seen(case)
    gradients = [p.grad for p in seen.model.parameters() if p.grad is not None]
    numbers = [*seen.model.parameters(), *gradients, *seen.outputs.values(), torch.tensor(seen.losses)]
    assert not all(bool(torch.isfinite(t).all()) for t in numbers)


@pytest.mark.parametrize("case", only("US501"))
def test_the_named_parameters_have_no_gradient_and_others_have_one(case: Case) -> None:
    seen = Seen(case)
    gradients = {name: p.grad for name, p in seen.model.named_parameters()}
    assert all(gradients[name] is None for name in case.layers)
    assert any(g is not None for g in gradients.values())


@pytest.mark.parametrize("case", only("US504"))
def test_an_optimizer_of_the_models_parameters_does_not_move_the_named_weights_although_they_have_a_gradient(
    case: Case,
) -> None:
    model, inputs, targets, loss_fn = case.problem()
    (name,) = case.layers
    weight = eval(f"model.{name}")
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss_fn(model(inputs), targets).backward()
    optimizer.step()
    assert bool(weight.grad.any())
    assert torch.equal(weight, before)


@pytest.mark.parametrize("case", chosen(lambda case: "US502" in case.rules))
def test_the_named_weights_get_a_gradient_of_exactly_zero(case: Case) -> None:
    seen = Seen(case)
    named = {name: seen.model.get_parameter(name).grad for name in case.layers if name.endswith("weight")}
    assert named
    assert all(g is not None and bool((g == 0).all()) for g in named.values())


@pytest.mark.parametrize("case", only("US503"))
def test_all_rows_of_the_named_weight_are_the_same(case: Case) -> None:
    weight = case.problem()[0].get_parameter(case.layers[0])
    assert bool((weight == weight[:1]).all())
    assert bool((weight != 0).any())


@pytest.mark.parametrize("case", only("US301"))
def test_no_step_changes_the_named_weights_by_more_than_a_ten_millionth(case: Case) -> None:
    seen = Seen(case)
    weights = [name for name in case.layers if seen.model.get_parameter(name).dim() > 1]
    assert all(max(seen.updates[name]) < 1.2e-7 for name in weights)


@pytest.mark.parametrize("case", only("US302"))
def test_steps_of_a_tenth_of_the_weights_make_the_loss_larger(case: Case) -> None:
    seen = Seen(case)
    weights = [name for name in case.layers if seen.model.get_parameter(name).dim() > 1]
    assert any(min(seen.updates[name]) > 0.1 for name in weights)
    assert not seen.losses[-1] < 2 * seen.losses[0]


@pytest.mark.parametrize("case", chosen(lambda case: True, HEALTHY))
def test_a_healthy_network_learns(case: Case) -> None:
    model, inputs, targets, loss_fn = case.problem()
    optimizer = case.optimizer(p for p in model.parameters() if p.requires_grad)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
