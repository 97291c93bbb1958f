"""The solver behind `calibrate` and `prepare`: sets the cores' shifts and slopes while a batch goes forward."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakTensorKeyDictionary

from sigmoidcore._torch.autograd import NONE, backward_pass, bare, normalises
from sigmoidcore.calibration.orthogonal import (
    WEIGHTED,
    make_orthogonal,
    orthogonal_,
    scale_to_features,
    scale_to_unit_outputs,
)
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import local_derivative, relative_slope, slope_for_gain, spread, tangential_weights
from sigmoidcore.nn.networks import RNN
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.observation.profile import Inputs, Profile, floating_tensors, given, run, tapped_modules

NOT_LEVEL = 1.5
"""A profile that is less level than this after all passes is said to be so."""
NEARLY_BINARY = 3.0
"""A first core above this level passes on little more than the signs of its inputs."""
SHALLOW = 10
"""More cores than this that are not centered are said to be so."""
SMALLEST = 1e-5
"""Preactivations that differ from sample to sample by less than this part of their size are taken to be all alike."""


class Solver:
    """Goes forward through a model and sets each core's shift and slope as its input arrives.

    A core's output is cut off from what made it, so that the autograd graph behind the next core's input is that of
    one segment: its sources, the cores that feed it, are the leaves of that graph, and one vector-Jacobian product
    gives the size of its rows. Where a core has several sources (branches, residual sums), the gain is that to all of
    them together. Behind a normalisation the gain does not depend on the sources' slopes, and cannot be 1 by choice:
    the slope there is that of the saturation level.

    Args:
        model: a model with cores.
        saturation: saturation level of the first cores, or None.
        fresh_weights: whether layers get fresh weights as the batch reaches them.

    Attributes:
        slopes: of the cores, in the order in which they ran.
        levels: their saturation levels.
        notes: what could not be done, in words.
    """

    def __init__(self, model: nn.Module, saturation: float | None, fresh_weights: bool) -> None:
        self.model = model
        self.saturation = saturation
        self.fresh_weights = fresh_weights
        self.cores = tapped_modules(model)
        self._solves = True
        self.notes: list[str] = []
        self.slopes: dict[str, float] = {}
        self.levels: dict[str, float] = {}
        self._log_targets: dict[str, float] = {}
        self._fresh: set[nn.Module] = set()
        self._signs: dict[torch.Size, Tensor] = {}
        self._places: dict[str, Tensor] = {}
        self._over_bound = 1.0
        self._start_anew()
        self._rng = torch.Generator()
        if fresh_weights:
            _check_weights(model)
            # One draw, which the global generator keeps: the next model gets other weights.
            self._rng.manual_seed(int(torch.randint(2**62, ())))

    def go_forward(self, inputs: Inputs) -> None:
        """One forward pass that solves every core in turn."""
        self._start_anew()
        with ExitStack() as stack, torch.enable_grad():
            for name, core in self.cores.items():
                if isinstance(core, SigmoidCore):
                    stack.enter_context(_hooks(core, self._before_core(name), self._after_core(name)))
                else:
                    stack.enter_context(_hooks(core, self._before_recurrent(name), self._after_recurrent(name)))
            if self.fresh_weights:
                for module in self.model.modules():
                    if isinstance(module, WEIGHTED):
                        stack.enter_context(_hooks(module, self._before_weighted, self._after_weighted))
            outputs = floating_tensors(run(self.model, inputs))
            heads = [(self._outputs[output], output) for output in outputs if output in self._outputs]
            if not heads and self._last_weighted is not None:
                heads = [self._last_weighted]
            for layer, output in heads:
                behind = [self._leaves[leaf] for leaf in self._behind(output)[0]]
                scale_to_unit_outputs(layer, output, centre=any(name in self._places for name in behind))

    def measure(self, inputs: Inputs) -> None:
        """One forward pass that changes nothing and takes slopes and levels as they are."""
        self._solves = False
        self.go_forward(inputs)

    def can_correct(self, profile: Profile, enough: float) -> bool:
        """Whether the profile is finite and not as level as `enough` yet."""
        return any(name in self.cores for name in profile.names) and enough < self.free_spread(profile) < math.inf

    def free_spread(self, profile: Profile) -> float:
        """The spread over the cores that this solver can level.

        Not those whose slope a saturation level has fixed, nor the steps of a recurrent layer: its own solver levels
        them for a loss at its end, and where a loss reads every step, a level gradient gathers on the way back.
        """
        left = self._fixed | self._normalised
        free = [
            i
            for i, name in enumerate(profile.names)
            if name not in left and not isinstance(self._layer_of(name), RecurrentCores)
        ]
        return spread(profile.sizes[free]) if free else 1.0

    def correct(self, profile: Profile) -> None:
        """Ask each core for the gain that would have given it the gradient size of the cores that it feeds."""
        squares: dict[str, float] = {}
        for name, size in zip(profile.names, profile.sizes.tolist(), strict=True):
            layer = name if name in self.cores else name.rpartition("[")[0]  # the steps of a recurrent layer together
            squares[layer] = squares.get(layer, 0.0) + size**2
        logs = {name: 0.5 * math.log(square) for name, square in squares.items()}
        fed: dict[str, list[str]] = {}
        for name, sources in self._sources.items():
            for source in sources:
                fed.setdefault(source, []).append(name)
        for name, readers in fed.items():
            if isinstance(self.cores[name], SigmoidCore) and name not in self._fixed | self._normalised:
                wanted = sum(logs[reader] for reader in readers) / len(readers)
                self._log_targets[name] = self._log_targets.get(name, 0.0) + wanted - logs[name]

    def settings(self) -> tuple[list[Tensor], dict[str, float], dict[str, float]]:
        """Copies of all that a pass changes."""
        return [t.detach().clone() for t in self._changed()], dict(self.slopes), dict(self.levels)

    @torch.no_grad()
    def restore(self, settings: tuple[list[Tensor], dict[str, float], dict[str, float]]) -> None:
        """Take copies back."""
        tensors, self.slopes, self.levels = settings
        for tensor, copy in zip(self._changed(), tensors, strict=True):
            tensor.copy_(copy)

    def conclude(self, profile: Profile) -> None:
        """Note what this profile leaves to be wished for."""
        if not math.isfinite(profile.spread):
            self.note(
                "the profile is not level: a gradient is 0 or not finite; check that the loss uses every layer, and "
                "that no weight on the way is 0 (as residual branches that start at 0 have)"
            )
        elif self.free_spread(profile) > NOT_LEVEL:
            self.note(
                f"the profile is level to a factor of {self.free_spread(profile):.3g} only; a lower saturation, or "
                "fresh weights by `prepare`, may do better"
            )
        first = next((name for name, sources in self._sources.items() if not sources), None)
        is_core = first is not None and isinstance(self.cores[first], SigmoidCore)
        if first is not None and is_core and self.saturation is None and self.levels[first] > NEARLY_BINARY:
            self.note(
                f"gain 1 makes the first core '{first}' nearly binary (level {self.levels[first]:.3g}); "
                "saturation=1 would keep what its inputs say"
            )
        open_ended = [n for n, c in self.cores.items() if isinstance(c, SigmoidCore) and not c.centered]
        if len(open_ended) > SHALLOW:
            self.note(
                f"{len(open_ended)} cores are not centered: the mean of their outputs, 1/2, makes so deep a network "
                "hard to train however level its gradient is; use SigmoidCore(..., centered=True), or "
                "sc.convert(..., centered=True)"
            )
        if self._fixed:
            self.note("the saturation level fixes the first core's slope, and so its gradient size")
        if self._normalised:
            self.note(
                f"{len(self._normalised)} cores read what a normalisation has scaled, which undoes the size that a "
                "slope gives: theirs set the saturation level only"
            )

    def note(self, text: str) -> None:
        """Say something in the report, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _layer_of(self, name: str) -> nn.Module:
        """The core, or the recurrent layer whose step it is, of a name in a profile."""
        return self.cores[name if name in self.cores else name.rpartition("[")[0]]

    def _start_anew(self) -> None:
        """Forget what belongs to one pass."""
        self.slopes, self.levels = {}, {}
        self._sources: dict[str, list[str]] = {}
        self._fixed: set[str] = set()
        self._normalised: set[str] = set()
        self._leaves = WeakTensorKeyDictionary()
        self._last_weighted: tuple[nn.Module, Tensor] | None = None
        self._outputs = WeakTensorKeyDictionary()

    def _changed(self) -> list[Tensor]:
        modules = [*self.cores.values(), *self._fresh]
        return list({id(t): t for m in modules for t in [*m.buffers(), *m.parameters()]}.values())

    def _before_core(self, name: str) -> Callable[..., Any]:
        def before(core: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            assert isinstance(core, SigmoidCore)
            if backward_pass() != NONE:
                raise ValueError(
                    f"core '{name}' runs again in an activation checkpoint, whose two passes must be alike: switch "
                    "checkpoints off while slopes are set"
                )
            if name in self._sources:
                raise ValueError(f"core '{name}' runs more than once a forward pass: give every place its own core")
            x = self._solve(name, core, given(args, kwargs))
            self._last_weighted = None
            return (x,), {}

        return before

    def _after_core(self, name: str) -> Callable[..., Any]:
        return lambda _, args, output: self._cut(name, output)

    def _before_recurrent(self, name: str) -> Callable[..., Any]:
        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sequences = given(args, kwargs)
            data = sequences.data if isinstance(sequences, PackedSequence) else sequences
            if not bool(torch.isfinite(data).all()):
                raise _not_finite(name, data)
            assert isinstance(layer, RNN | RecurrentCores)
            orthogonal = None
            if self.fresh_weights and layer not in self._fresh and not self._keeps_weights(layer):
                self._fresh.add(layer)
                orthogonal = functools.partial(orthogonal_, generator=self._rng)
            self._sources[name] = [self._leaves[leaf] for leaf in self._behind(data)[0]]
            found = layer.solve(sequences, self.saturation, orthogonal) if self._solves else layer.measure(sequences)
            self.slopes[name], self.levels[name], *notes = found
            if self.saturation is not None and not self.fresh_weights:
                notes.append("its slopes are those of a level gradient; only `prepare` gives it a saturation level")
            for note in notes:
                self.note(f"layer '{name}': {note}")
            self._last_weighted = None

        return before

    def _after_recurrent(self, name: str) -> Callable[..., Any]:
        return lambda _, args, output: self._cut_all(name, output)

    def _before_weighted(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layer not in self._fresh and not self._keeps_weights(layer):
            x = given(args, kwargs)
            reads_inputs = not self._behind(x)[0]
            make_orthogonal(layer, self._rng, reads_inputs=reads_inputs)
            if reads_inputs:
                scale_to_features(layer, bare(x))
        self._fresh.add(layer)

    def _keeps_weights(self, layer: nn.Module) -> bool:
        """Whether a layer is frozen: somebody has trained it."""
        frozen = any(not p.requires_grad for p in layer.parameters(recurse=False) if p.dim() > 1)
        if frozen:
            self.note("weights with requires_grad=False were kept as they are; unfreeze what is to be drawn afresh")
        return frozen

    def _after_weighted(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        if self._keeps_weights(layer):
            self._last_weighted = None
            return
        self._last_weighted = layer, output
        self._outputs[output] = layer  # and not the output, too: it would keep itself alive to the end of the pass

    def _cut(self, name: str, output: Tensor) -> Tensor:
        """The output of a core as a leaf of the next segment."""
        leaf = bare(output).requires_grad_()
        self._leaves[leaf] = name
        return leaf.clone()  # what reads it may change it in place

    def _cut_all(self, name: str, output: Any) -> Any:
        """Outputs and last states of a recurrent layer, which the model may read either of."""
        if isinstance(output, PackedSequence):
            return output._replace(data=self._cut(name, output.data))
        return self._cut(name, output) if isinstance(output, Tensor) else tuple(self._cut_all(name, o) for o in output)

    def _behind(self, x: Tensor) -> tuple[list[Tensor], bool]:
        """The leaves of the autograd graph behind a tensor, and whether a normalisation stands between them and it."""
        leaves, normalised, seen, waiting = [], False, set(), [x.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is None:
                normalised = normalised or normalises(node)
                waiting.extend(n for n, _ in node.next_functions)
            elif leaf in self._leaves:
                leaves.append(leaf)
        return leaves, normalised

    @torch.no_grad()
    def _solve(self, name: str, core: SigmoidCore, x: Tensor) -> Tensor:
        """Set shift and slope of one core; return its input (scaled, if the first layer's weights were)."""
        leaves, normalised = self._behind(x)
        self._sources[name] = [self._leaves[leaf] for leaf in leaves]
        signal, shift, size, alike = self._centred(name, core, x, is_first=not leaves)
        if not self._solves:
            self.slopes[name] = core.alpha.mean().item()
            self.levels[name] = 0.0 if alike else self.slopes[name] * size
            return x
        target = math.exp(self._log_targets.get(name, 0.0)) / core.scale
        if not leaves and self.saturation is not None and not alike:
            weighted = self._last_weighted
            if weighted is not None and weighted[1] is x:
                alpha = target / float(local_derivative(signal * self.saturation, 1.0).square().mean().sqrt())
                scale = self.saturation / (alpha * size)
                for parameter in weighted[0].parameters(recurse=False):
                    parameter.mul_(scale)
                x, shift, size = x * scale, shift * scale, size * scale
            else:
                alpha = self.saturation / size
                self._fixed.add(name)
        elif leaves and normalised and not alike:
            alpha = (self.saturation or 1.0) / size
            self._normalised.add(name)
        else:
            rows = self._row_size(name, leaves, x, signal) if leaves else 1.0
            wanted = target * size / rows
            start = 4 * wanted * self._over_bound
            solved, reached = slope_for_gain(signal, wanted, weights=tangential_weights(signal), start=start)
            self._over_bound = solved / (4 * wanted)
            if reached < 0.99 * wanted:
                self.note(
                    f"no slope gives core '{name}' a gain of {target * core.scale:.3g}; "
                    f"the largest is {reached * core.scale * rows / size:.3g}"
                )
            alpha = solved / size
        if x.shape[0] > 1:
            core.set_shift(shift.reshape(core.shift.shape))
        core.set_slope(alpha)
        self.slopes[name] = alpha
        self.levels[name] = 0.0 if alike else alpha * size
        return x

    def _centred(
        self, name: str, core: SigmoidCore, x: Tensor, *, is_first: bool
    ) -> tuple[Tensor, Tensor, float, bool]:
        """The preactivations less their shift, over their size; the shift; the size; whether all samples are alike."""
        signal = bare(x)
        dim = core.dim % x.dim()
        mean = signal.mean([i for i in range(x.dim()) if core.num_features is None or i != dim], keepdim=True)
        largest = float(torch.linalg.vector_norm(signal, math.inf))
        around = signal - mean if signal.shape[0] > 1 else signal
        size = float(torch.linalg.vector_norm(around, dtype=torch.float64)) / math.sqrt(signal.numel())
        if not math.isfinite(largest) or not math.isfinite(size):
            raise _not_finite(name, signal)
        if size <= SMALLEST * largest:
            self.note(f"the samples of the batch do not differ at core '{name}': its slope is set for z near 0")
            return torch.zeros_like(signal), mean, 1.0, True
        if is_first and self._reads_one_number(core, x):
            shift = self._of_samples(name, signal)
            return (signal - shift) / size, shift, size, False
        return around / size, mean, size, False

    def _reads_one_number(self, core: SigmoidCore, x: Tensor) -> bool:
        """Whether a core with a shift for each neuron has a fresh layer of one feature before it.

        With the batch mean as their shift, all of its neurons would be in their middle at the same input: their outputs
        are few functions, however many neurons there are, and little for the layers behind them to work with.
        """
        layer, output = self._last_weighted or (None, None)
        one = output is x and isinstance(layer, nn.Linear) and layer.in_features == 1 and len(x) > 1
        return one and core.num_features is not None and core.dim % x.dim() == x.dim() - 1

    def _of_samples(self, name: str, signal: Tensor) -> Tensor:
        """For each neuron its preactivation at a sample of its own: in every pass at the same place in the batch."""
        rows = signal.flatten(0, -2)
        if name not in self._places:
            self._places[name] = torch.rand(1, rows.shape[1], generator=self._rng, dtype=torch.float64)
        chosen = (self._places[name] * len(rows)).long()
        return rows.gather(0, chosen.to(rows.device))

    def _row_size(self, name: str, leaves: list[Tensor], x: Tensor, signal: Tensor) -> float:
        """Root mean square size of the Jacobian rows from the sources to `x`, weighed as a gradient is.

        The core's own level is not known yet; that of its source is near enough to say which neurons weigh less.
        """
        level = min(self.levels[self._leaves[leaves[0]]], 2.0)
        cotangent = relative_slope(signal * level).mul_(self._signs_like(x))
        with torch.enable_grad():
            gradients = torch.autograd.grad(x, leaves, cotangent, retain_graph=True)
        total = math.hypot(*(float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients))
        size = total / float(torch.linalg.vector_norm(cotangent, dtype=torch.float64))
        if not 0 < size < math.inf:
            self.note(f"the segment before core '{name}' passes no gradient back: its weights are 0 or not finite")
            return 1.0
        return size

    def _signs_like(self, x: Tensor) -> Tensor:
        """Random signs, the same for every layer of one shape; made on the CPU, so that every device has the same."""
        if x.shape not in self._signs:
            generator = torch.Generator().manual_seed(0)
            signs = torch.randint(0, 2, x.shape, generator=generator).mul_(2).sub_(1)
            self._signs[x.shape] = signs.to(x.device, x.dtype)
        return self._signs[x.shape]


def _check_weights(model: nn.Module) -> None:
    computed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and "weight" not in module._parameters
    ]
    if computed:
        raise ValueError(
            f"the weight of layer '{computed[0]}' ({len(computed)} in all) is computed from other parameters "
            "(weight_norm, spectral_norm, a parametrization), so prepare cannot give it fresh ones: prepare first and "
            "parametrize then, or use calibrate"
        )


def _not_finite(name: str, x: Tensor) -> ValueError:
    count = int((~torch.isfinite(x)).sum())
    return ValueError(
        f"the preactivations of core '{name}' are not finite ({f'{count} of {x.numel()}' if count else 'their mean'}): "
        "a weight before it is not finite or the inputs are too large for their dtype; scale them down"
    )


@contextmanager
def _hooks(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    handles = module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
