"""Calibrate: set slopes and shifts from one batch, so that the gradient keeps the same size in every layer.

The method (docs/method.md derives it). Forward through the network once. At each core, set the shift to the batch
mean, and solve the one slope for which the gain of the segment that ends there is 1, for cotangents orthogonal to the
signal (`gain.tangential_weights`). Then measure the profile; where it is not level yet, ask the segments for the gain
that makes up for it, and go forward again: every slope is solved for the signal that really arrives.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import (
    local_derivative,
    saturation_level,
    slope_for_gain,
    spread,
    tangential_weights,
)
from sigmoidcore.profile import (
    Inputs,
    LossFn,
    Profile,
    check_inputs,
    check_loss,
    gradient_profile,
    run,
    tapped_modules,
    undisturbed,
)

LEVEL_ENOUGH = 1.02
"""A profile within 2 % is not corrected further: another batch differs by as much."""
MOST_PASSES = 4
MOST_SATURATED = 100.0
NOTES = 5
NOT_LEVEL = 1.5
"""A profile that is less level than this after all passes is said to be so."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` or `prepare` did; `print` it.

    Attributes:
        before: the gradient profile as it was.
        after: the gradient profile as it is now.
        slopes: slope of each core, shape [L].
        levels: saturation level (standard deviation of z) of each core, shape [L].
        passes: forward passes that solved slopes.
        seconds: time taken.
        notes: what could not be done, in words.
    """

    before: Profile
    after: Profile
    slopes: Tensor
    levels: Tensor
    passes: int
    seconds: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """One line for each fact, then the profile."""
        rows = [
            ("spread", f"{self.before.spread:.4g} -> {self.after.spread:.4g}"),
            ("slopes", _range(self.slopes)),
            (
                "saturation level",
                f"{float(self.levels[0]):.3g} at the first core, {float(self.levels[-1]):.3g} at the last",
            ),
            ("time", f"{self.seconds:.2f} s, {self.passes} pass{'es' if self.passes > 1 else ''}"),
            *(("note", note) for note in self.notes[:NOTES]),
        ]
        if len(self.notes) > NOTES:
            rows.append(("", f"and {len(self.notes) - NOTES} more notes, see .notes"))
        head = f"calibrated {len(self.after.names)} cores"
        return "\n".join([head, *(f"  {key:<16}  {value}" for key, value in rows), str(self.after)])


def calibrate(
    model: nn.Module,
    inputs: Inputs,
    *,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    saturation: float | None = None,
) -> Calibration:
    """Set the slopes and shifts of all cores from one batch; weights are not touched.

    Args:
        model: a model with cores; runs in evaluation mode, its modes are restored.
        inputs: one batch of a few hundred samples: a tensor (batch first), a tuple for `model(*inputs)` or a dict for
            `model(**inputs)`. With a single sample the shifts stay as they are, for a mean says nothing then.
        targets: with `loss_fn(outputs, targets)`, level the profile of that loss instead of random cotangents.
        loss_fn: gives a scalar; use it when the loss weighs the outputs unevenly.
        saturation: saturation level u (standard deviation of z) of the first core. None: its slope makes the gain 1.

    Returns:
        A frozen, printable report.

    Raises:
        ValueError: no cores; empty, non-finite or wrongly shaped inputs; a core's preactivations are not finite.
            Slopes and shifts are then as they were.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(8, 16, 20, 2)
        >>> report = sc.calibrate(model, torch.randn(100, 8))
        >>> report.after.spread < report.before.spread
        True
    """
    return _calibrate(model, inputs, targets, loss_fn, saturation, fresh_weights=False)


def prepare(
    model: nn.Module,
    inputs: Inputs,
    *,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    saturation: float = 0.5,
) -> Calibration:
    """Before training, for depth: fresh orthogonal weights, zero biases, then calibrate.

    The first layer's weights also take the scale of the inputs: its columns are divided by the features' standard
    deviations, and its size makes the first core's saturation level `saturation` at gain 1. The last layer's size
    makes the outputs' standard deviation 1, however small the signal has become. Weights come from PyTorch's global
    generator: `torch.manual_seed` fixes them.

    Args:
        model: a model of Linear layers and cores, untrained: **its weights are replaced**.
        inputs: one batch of a few hundred samples, see `calibrate`.
        targets: see `calibrate`.
        loss_fn: see `calibrate`.
        saturation: saturation level u of the first core; 0.5 for classification, 1 to 3 for inputs of few dimensions.

    Returns:
        A frozen, printable report.

    Raises:
        ValueError: as `calibrate`; weights, slopes and shifts are then as they were.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(8, 16, 100, 2)
        >>> report = sc.prepare(model, torch.randn(200, 8))
        >>> bool(report.after.spread < 1.1)
        True

    Source:
        Orthogonal weights: Saxe, McClelland, Ganguli (2014), arXiv 1312.6120; Pennington, Schoenholz, Ganguli (2017),
        arXiv 1711.04735.
    """
    return _calibrate(model, inputs, targets, loss_fn, saturation, fresh_weights=True)


def _calibrate(
    model: nn.Module,
    inputs: Inputs,
    targets: Any,
    loss_fn: LossFn | None,
    saturation: float | None,
    fresh_weights: bool,
) -> Calibration:
    started = time.perf_counter()
    if saturation is not None and not 0 < saturation <= MOST_SATURATED:
        raise ValueError(
            f"saturation must be a positive number up to {MOST_SATURATED:g}, got {saturation}; 0.5 is the usual choice"
        )
    check_inputs(inputs)
    check_loss(targets, loss_fn)
    before = gradient_profile(model, inputs, targets, loss_fn)
    solver = _Solver(model, saturation, fresh_weights)
    with _restored_on_error(model), undisturbed(model, inputs):
        solver.go_forward(inputs)
        after = gradient_profile(model, inputs, targets, loss_fn)
        passes = 1
        while passes < MOST_PASSES and solver.can_correct(after):
            kept, settings = after, solver.settings()
            solver.correct(after)
            solver.go_forward(inputs)
            after = gradient_profile(model, inputs, targets, loss_fn)
            passes += 1
            if not solver.free_spread(after) <= solver.free_spread(kept):
                solver.restore(settings)
                after = kept
                break
        if not math.isfinite(after.spread):
            solver.note("the profile is not level: a gradient is 0 or not finite; check that the loss uses every layer")
        elif solver.free_spread(after) > NOT_LEVEL:
            solver.note(f"the profile is level to a factor of {solver.free_spread(after):.3g} only")
        if not solver.leveled_first:
            solver.note("the saturation level fixes the first core's slope, and so its gradient size")
    return Calibration(
        before=before,
        after=after,
        slopes=torch.tensor(solver.slopes, dtype=torch.float64),
        levels=torch.tensor(solver.levels, dtype=torch.float64),
        passes=passes,
        seconds=time.perf_counter() - started,
        notes=tuple(solver.notes),
    )


class _Solver:
    """Goes forward through a model and sets each core's shift and slope as its input arrives."""

    def __init__(self, model: nn.Module, saturation: float | None, fresh_weights: bool) -> None:
        self.model = model
        self.saturation = saturation
        self.fresh_weights = fresh_weights
        self.cores = tapped_modules(model)
        self.log_targets: dict[str, float] = {}
        self.notes: list[str] = []
        self.slopes: list[float] = []
        self.levels: list[float] = []
        self._fresh: set[nn.Module] = set()
        self._rng = torch.Generator()
        if fresh_weights:  # one draw, which the global generator keeps: the next model gets other weights
            self._rng.manual_seed(int(torch.randint(2**62, ())))
        self._linears: list[tuple[nn.Linear, Tensor]] = []
        self._leaf: Tensor | None = None

    def go_forward(self, inputs: Inputs) -> None:
        """One forward pass that solves every core in turn."""
        self.slopes, self.levels, self._linears, self._leaf = [], [], [], None
        self._order: list[str] = []
        self._read_by_core = False
        self.leveled_first = self.saturation is None
        self._generator = torch.Generator().manual_seed(0)
        with ExitStack() as stack, torch.enable_grad():
            for name, core in self.cores.items():
                if isinstance(core, SigmoidCore):
                    stack.enter_context(_hooks(core, self._before_core(name, core), self._after_core))
                else:
                    stack.enter_context(_hooks(core, self._before_recurrent(name, core), self._after_recurrent))
            if self.fresh_weights:
                for module in self.model.modules():
                    if isinstance(module, nn.Linear):
                        stack.enter_context(_hooks(module, self._before_linear, self._after_linear))
            run(self.model, inputs)
            if self.fresh_weights and self._linears and not self._read_by_core:
                _unit_outputs(*self._linears[-1])

    def can_correct(self, profile: Profile) -> bool:
        """Whether the profile is finite and not level enough yet."""
        own = any(name in self.cores for name in profile.names)
        return own and LEVEL_ENOUGH < self.free_spread(profile) < math.inf

    def free_spread(self, profile: Profile) -> float:
        """The spread over the layers that this solver may level."""
        return spread(profile.sizes[self._first_free(profile) :])

    def correct(self, profile: Profile) -> None:
        """Ask each segment for the gain that would have made the measured profile level."""
        logs = profile.sizes.log().tolist()
        first = self._first_free(profile)
        for name, here, after in zip(profile.names[first:], logs[first:], logs[first + 1 :], strict=False):
            if name in self.cores:  # the steps of a recurrent layer have one slope, which its own solver has found
                self.log_targets[name] = self.log_targets.get(name, 0.0) + after - here

    def settings(self) -> list[Tensor]:
        """Copies of all that a pass changes."""
        return [t.clone() for t in self._changed()] + [
            torch.tensor(v, dtype=torch.float64) for v in (self.slopes, self.levels)
        ]

    @torch.no_grad()
    def restore(self, settings: list[Tensor]) -> None:
        """Take copies back."""
        for tensor, copy in zip(self._changed(), settings, strict=False):
            tensor.copy_(copy)
        self.slopes, self.levels = settings[-2].tolist(), settings[-1].tolist()

    def note(self, text: str) -> None:
        """Say something in the report, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _changed(self) -> list[Tensor]:
        tensors = [t for core in self.cores.values() for t in [*core.buffers(), *core.parameters()]]
        linears = dict.fromkeys(linear for linear, _ in self._linears)
        return tensors + [p for linear in linears for p in linear.parameters()]

    def _first_free(self, profile: Profile) -> int:
        """A saturation level fixes the first core's slope, so without fresh weights its gradient size is not free."""
        return 0 if self.leveled_first or len(profile.names) == 1 else 1

    def _before_core(self, name: str, core: SigmoidCore) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if name in self._order:
                raise ValueError(f"core '{name}' runs more than once a forward pass: give every place its own core")
            self._order.append(name)
            self._read_by_core = True
            return (self._solve(name, core, args[0]), *args[1:])

        return before

    def _after_core(self, _: nn.Module, args: Any, output: Tensor) -> Tensor:
        self._leaf = output.detach().requires_grad_()
        return self._leaf

    def _before_recurrent(self, name: str, layer: nn.Module) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            _check_finite(name, args[0])
            solved = layer.solve(  # type: ignore[operator]
                args[0].detach(), self.saturation, self._orthogonal(layer)
            )
            self._order.append(name)
            self._read_by_core = True
            self.leveled_first = self.leveled_first or len(self._order) == 1
            self.slopes.append(solved[0])
            self.levels.append(solved[1])

        return before

    def _orthogonal(self, layer: nn.Module) -> Callable[[Tensor], None] | None:
        """What makes the weights of a recurrent layer fresh, once."""
        if not self.fresh_weights or layer in self._fresh:
            return None
        self._fresh.add(layer)
        return lambda weight: _orthogonal(weight, self._rng)

    def _after_recurrent(self, _: nn.Module, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._leaf = output[0].detach().requires_grad_()
        return (self._leaf, *(h.detach() for h in output[1:]))

    def _before_linear(self, linear: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(linear, nn.Linear)
        if linear not in self._fresh:
            _orthogonal(linear.weight, self._rng)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            if not self._fresh and not self._order:
                _standardize(linear, args[0].detach())
            self._fresh.add(linear)

    def _after_linear(self, linear: nn.Module, args: Any, output: Tensor) -> None:
        assert isinstance(linear, nn.Linear)
        self._linears.append((linear, output))
        self._read_by_core = False

    @torch.no_grad()
    def _solve(self, name: str, core: SigmoidCore, x: Tensor) -> Tensor:
        """Set shift and slope of one core; return its input (scaled, if the first layer's weights were)."""
        _check_finite(name, x)
        signal = x.detach()
        dim = core.dim % x.dim()
        axes = [i for i in range(x.dim()) if core.num_features is None or i != dim]
        mean = signal.mean(axes, keepdim=True)
        if signal.shape[0] > 1:
            signal = signal - mean
        size = _root_mean_square(signal)
        alike = size <= 1e-5 * float(x.detach().abs().amax())
        if alike:
            signal, size = torch.zeros_like(signal), 1.0
            self.note(f"the samples of the batch do not differ at core '{name}': its slope is set for z near 0")
        signal = signal / size
        first = self._leaf is None
        target = math.exp(self.log_targets.get(name, 0.0)) / core.scale
        scale = 1.0
        if first and self.saturation is not None and not alike:
            if self.fresh_weights and self._linears and self._linears[-1][1] is x:
                derivative = float(local_derivative(signal * self.saturation, 1.0).square().mean().sqrt())
                alpha = target / derivative
                scale = self.saturation / (alpha * size)
                linear = self._linears[-1][0]
                linear.weight.mul_(scale)
                if linear.bias is not None:
                    linear.bias.mul_(scale)
                x, mean, size = x * scale, mean * scale, size * scale
                self.leveled_first = True
            else:
                alpha = self.saturation / size
        else:
            weights = tangential_weights(signal)
            start = core.alpha.mean().item() * size
            row_size = 1.0 if self._leaf is None else self._row_size(name, self._leaf, x, signal, start)
            solved, reached = slope_for_gain(signal, target * size / row_size, weights=weights)
            if reached < 0.99 * target * size / row_size:
                self.note(
                    f"no slope gives core '{name}' a gain of {target * core.scale:.3g}; "
                    f"the largest is {reached * core.scale * row_size / size:.3g}"
                )
            alpha = solved / size
        if x.shape[0] > 1:
            core.set_shift(mean.reshape(core.shift.shape))
        core.set_slope(alpha)
        self.slopes.append(alpha)
        self.levels.append(float(saturation_level(signal)) * alpha * size)
        return x

    def _row_size(self, name: str, leaf: Tensor, x: Tensor, signal: Tensor, alpha: float) -> float:
        """Root mean square size of the Jacobian rows from the last core's output to `x`, weighed as a gradient is."""
        derivative = local_derivative(signal, alpha)
        signs = torch.randint(0, 2, x.shape, generator=self._generator).mul_(2).sub_(1).to(x.device, x.dtype)
        cotangent = derivative.mul_(signs)
        with torch.enable_grad():
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                x, leaf, cotangent, allow_unused=True, retain_graph=True
            )
        gradient = gradients[0]
        if gradient is None:
            self.note(f"core '{name}' is not fed by the core before it: its segment is taken to have rows of size 1")
            return 1.0
        size = float(torch.linalg.vector_norm(gradient) / torch.linalg.vector_norm(cotangent))
        if not 0 < size < math.inf:
            self.note(f"the segment before core '{name}' passes no gradient back: its weights are 0 or not finite")
            return 1.0
        return size


@torch.no_grad()
def _orthogonal(weight: Tensor, generator: torch.Generator) -> None:
    """Orthonormal rows or columns, drawn evenly; made in float32 or better on the CPU, whatever the weight is."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, dtype=dtype), generator=generator))


@torch.no_grad()
def _standardize(linear: nn.Linear, features: Tensor) -> None:
    """Divide the columns of the first layer by the features' standard deviations; constant features get a safe size."""
    flat = features.flatten(0, -2).to(torch.float64)
    if flat.shape[0] < 2:
        return
    largest = flat.abs().amax(0)
    deviation = flat.std(0)
    size = torch.where(deviation > 1e-6 * largest, deviation, largest)
    if not bool((size > 0).any()):
        return
    typical = size[size > 0].log().mean().exp()
    linear.weight.div_(torch.where(size > 0, size, typical).to(linear.weight.dtype))


@torch.no_grad()
def _unit_outputs(linear: nn.Linear, output: Tensor) -> None:
    """Scale the last layer so that its outputs have standard deviation 1 over the batch."""
    size = _root_mean_square(output - output.mean(0)) if output.shape[0] > 1 else 0.0
    if size > 1e-5 * float(output.abs().amax()):
        linear.weight.div_(size)


def _root_mean_square(x: Tensor) -> float:
    """Root mean square, safe against overflow of the squares."""
    largest = float(x.abs().amax())
    return largest * float((x / largest).square().mean().sqrt()) if largest > 0 else 0.0


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"the preactivations of core '{name}' are not finite ({int((~torch.isfinite(x)).sum())} of {x.numel()}): "
            "a weight before it is not finite or the inputs are too large for their dtype; scale them down"
        )


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"


@contextmanager
def _hooks(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    handles = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _restored_on_error(model: nn.Module) -> Iterator[None]:
    """Give every parameter and buffer its old value back if anything goes wrong."""
    saved = [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, copy in saved:
                tensor.copy_(copy)
        raise
