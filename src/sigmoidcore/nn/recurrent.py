"""PyTorch's recurrent layers as cores: nn.RNN (tanh), nn.LSTM and nn.GRU with a slope and a shift for every gate row.

Slopes and shifts are folded into the rows of the weights for each call, which PyTorch's own fused kernel then runs:
with several layers, both directions, projections, packed sequences and dropout, like the plain layer.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sigmoidcore._torch.eager import uncompiled
from sigmoidcore.calibration import recurrent_solver
from sigmoidcore.nn.recurrent_cells import CELLS, Cell, State, Weights, fold, unroll
from sigmoidcore.nn.stepwise import Stepwise

_HALF = (torch.float16, torch.bfloat16)
_Layer = TypeVar("_Layer", bound=nn.RNNBase)


class RecurrentCores(Stepwise, nn.RNNBase):
    """What `CoreRNN`, `CoreLSTM` and `CoreGRU` have in common; use one of these.

    Arguments, parameters, inputs and outputs are those of PyTorch's layer. As constructed it computes the same, bit for
    bit (without `bias`, to rounding): a sigmoid gate is a core of slope 1, a tanh a centered core of slope 2 and scale
    2. A state dict without slopes and shifts, that of the plain layer, sets them to what they were at the start.

    `sigmoidcore.calibrate` sets them so that the gradient is level over the sequences given, from the zero state
    (see `through_time`); `sigmoidcore.prepare` draws fresh weights first, orthogonal for every gate. In a
    `sigmoidcore.gradient_profile` step t of a layer is named `lstm[t]`, or `lstm[l1_reverse,t]` if there are several
    layers or directions, after PyTorch's names; its size is that of the gradient of h_t, or of c_t for an LSTM.

    Attributes:
        slope_l0: buffer, [gates * hidden_size], in the order of the rows of `weight_ih_l0`; positive. float32 (or
            float64) also where the weights are of half precision.
        shift_l0: buffer, likewise; what is subtracted from W_ih u + W_hh h + b. (And so on: `slope_l0_reverse`, ...)
    """

    _plain: type[nn.RNNBase]
    """The layer of PyTorch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mode not in CELLS:
            raise ValueError(f"{_RELU}; use nonlinearity='tanh'")
        self._add_cores()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights, as PyTorch's layer does, and set slopes and shifts to those of the start."""
        super().reset_parameters()
        for name, buffer in self._buffers.items():  # none yet while the layer is made
            if buffer is not None and name.startswith("slope_"):
                buffer.copy_(self._slope_at_start(buffer.device, buffer.dtype))
            elif buffer is not None and name.startswith("shift_"):
                buffer.zero_()

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run over all steps, as the layer of PyTorch does."""
        if torch.compiler.is_dynamo_compiling():  # it breaks its graph at recurrent layers, and 2.15 reads them wrong
            return uncompiled(self._run_whole)(input, hx)
        return self._run_whole(input, hx)

    def _run_whole(self, input: Any, hx: Any) -> Any:
        if self._on_step is not None:
            return self._unrolled(input, hx)
        return self._plain.forward(self._folded(), input, hx)

    @torch.no_grad()
    def solve(
        self, input: Tensor | PackedSequence, saturation: float | None, orthogonal: Callable[[Tensor], None] | None
    ) -> tuple[float, float, *tuple[str, ...]]:
        """Set slopes and shifts from one batch of sequences, for `calibrate` and `prepare`.

        Args:
            input: as for forward.
            saturation: the level that fresh weights of the inputs get, or None.
            orthogonal: makes a weight orthogonal in place; None keeps the weights.

        Returns:
            The mean slope, the saturation level, and notes.

        Raises:
            ValueError: see `recurrent_solver.solve`.
        """
        notes = []

        def set_one(suffix: str, inputs: Tensor, alive: Tensor | None) -> None:
            if orthogonal is not None:
                self._make_fresh(suffix, orthogonal)
            found = recurrent_solver.solve(
                self._cell,
                inputs,
                self._weights(suffix),
                self._of("slope", suffix),
                self._of("shift", suffix),
                reverse=_is_reverse(suffix),
                alive=alive,
                saturation=None if orthogonal is None else saturation,
            )
            self._of("weight_ih", suffix).mul_(found.scale)
            self._of("slope", suffix).copy_(found.slope)
            self._of("shift", suffix).copy_(found.shift)
            if abs(found.tilt) > recurrent_solver.LEVEL:
                verb = "falls" if found.tilt > 0 else "grows"
                notes.append(
                    f"no slopes of {suffix} make its gradient level: over {len(inputs)} steps back it {verb} by e^"
                    f"{abs(found.tilt):.3g}"
                )
            elif found.spread > recurrent_solver.UNEVEN:
                notes.append(
                    f"the gradient of {suffix} goes up and down through time by a factor of {found.spread:.3g}; "
                    "more units, or fresh weights by `prepare`, may do better"
                )
            elif len(inputs) == 1:
                notes.append("sequences of one step have no time in which a gradient could change: nothing to level")

        slope, level = self._measured(input, set_one)
        return slope, level, *notes

    @torch.no_grad()
    def measure(self, input: Tensor | PackedSequence) -> tuple[float, float]:
        """Mean slope and saturation level over one batch of sequences, as they are."""
        return self._measured(input, lambda suffix, inputs, alive: None)

    @property
    def _cell(self) -> Cell:
        return CELLS[self.mode]

    def _suffixes(self, layer: int) -> list[str]:
        """As in PyTorch's names of the parameters."""
        return [f"l{layer}", f"l{layer}_reverse"] if self.bidirectional else [f"l{layer}"]

    def _of(self, what: str, suffix: str) -> Tensor:
        tensor = getattr(self, f"{what}_{suffix}")
        assert isinstance(tensor, Tensor)
        return tensor

    def _add_cores(self) -> None:
        """Register slopes and shifts, as they are at the start."""
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                weight = self._of("weight_hh", suffix)
                slope = self._slope_at_start(weight.device, torch.float32 if weight.dtype in _HALF else weight.dtype)
                self.register_buffer(f"slope_{suffix}", slope)
                self.register_buffer(f"shift_{suffix}", torch.zeros_like(slope))

    def _slope_at_start(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.cat([torch.full((self.hidden_size,), s, device=device, dtype=dtype) for s in self._cell.slopes])

    def _weights(self, suffix: str) -> Weights:
        """As they are trained; a layer without biases has biases of 0."""
        ih, hh = self._of("weight_ih", suffix), self._of("weight_hh", suffix)
        no_bias = None if self.bias else ih.new_zeros(len(ih))
        return Weights(
            ih=ih,
            hh=hh,
            bias_ih=self._of("bias_ih", suffix) if no_bias is None else no_bias,
            bias_hh=self._of("bias_hh", suffix) if no_bias is None else no_bias,
            hr=self._of("weight_hr", suffix) if self.proj_size else None,
        )

    def _effective(self, suffix: str) -> Weights:
        """With slopes and shifts in them."""
        return fold(self._cell, self._weights(suffix), self._of("slope", suffix), self._of("shift", suffix))

    def _folded(self) -> nn.RNNBase:
        """A view of this layer as the plain one, whose weights are the effective ones; it lives for one call."""
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        flat = [tensor for suffix in suffixes for tensor in self._effective(suffix) if tensor is not None]
        view = object.__new__(self._plain)
        view.__dict__.update(self.__dict__)
        # No reference to a parameter: PyTorch would compare it and take the parameters themselves.
        view.__dict__.update(_flat_weights=flat, _flat_weight_refs=[None] * len(self._flat_weights_names), bias=True)
        return view

    def _unrolled(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Any, Any]:
        """The same as the fused kernel, in a Python loop that shows every step."""
        sequence, alive = self._sequence(input)
        unbatched = isinstance(input, Tensor) and input.dim() == 2
        given: list[Tensor] | None = None
        if hx is not None:
            given = [h.unsqueeze(1) if unbatched else h for h in (hx if isinstance(hx, tuple) else (hx,))]
        ends: list[State] = []

        def run_one(suffix: str, inputs: Tensor) -> Tensor:
            weights = self._effective(suffix)
            zero = recurrent_solver.zero_state(inputs, weights, self._cell)
            state = zero if given is None else tuple(h[len(ends)] for h in given)
            outputs, end = self._run(suffix, inputs, alive, weights, state)
            ends.append(end)
            return outputs

        for layer in range(self.num_layers):
            if layer:
                sequence = nn.functional.dropout(sequence, self.dropout, self.training)
            sequence = torch.cat([run_one(suffix, sequence) for suffix in self._suffixes(layer)], -1)
        last = tuple(torch.stack(tensors) for tensors in zip(*ends, strict=True))
        if unbatched:
            last = tuple(h.squeeze(1) for h in last)
        return self._as_given(sequence, input), last if self._cell.states > 1 else last[0]

    def _run(
        self, suffix: str, inputs: Tensor, alive: Tensor | None, weights: Weights, state: State
    ) -> tuple[Tensor, State]:
        where = f"{suffix}," if self.num_layers > 1 or self.bidirectional else ""

        def on_step(step: int, memory: Tensor) -> None:
            if self._on_step is not None:
                self._on_step(f"{where}{step}", memory)

        return unroll(self._cell, inputs, state, weights, reverse=_is_reverse(suffix), alive=alive, on_step=on_step)

    def _sequence(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """[steps, batch, features], and which of the packed sequences still go on, [steps, batch, 1]."""
        if isinstance(input, PackedSequence):
            self.check_input(input.data, input.batch_sizes)
            sequence, lengths = pad_packed_sequence(input)
            alive = torch.arange(len(sequence)).unsqueeze(1) < lengths
            return sequence, alive.unsqueeze(-1).to(sequence.device)
        sequence = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if self.batch_first else input
        self.check_input(sequence, None)
        return sequence, None

    def _as_given(self, outputs: Tensor, input: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """[steps, batch, features] in the form of the input."""
        if isinstance(input, PackedSequence):
            order = input.sorted_indices
            lengths = (torch.arange(outputs.shape[1]).unsqueeze(1) < input.batch_sizes).sum(1)
            packed = pack_padded_sequence(outputs if order is None else outputs[:, order], lengths)
            return PackedSequence(packed.data, input.batch_sizes, order, input.unsorted_indices)
        if input.dim() == 2:
            return outputs.squeeze(1)
        return outputs.transpose(0, 1) if self.batch_first else outputs

    def _measured(
        self, input: Tensor | PackedSequence, set_one: Callable[[str, Tensor, Tensor | None], None]
    ) -> tuple[float, float]:
        """Go through the layers, `set_one` before each; mean slope and mean saturation level."""
        sequence, alive = self._sequence(input)
        sequence = sequence.detach()
        slopes, levels = [], []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes(layer):
                set_one(suffix, sequence, alive)
                weights, reverse = self._effective(suffix), _is_reverse(suffix)
                state = recurrent_solver.zero_state(sequence, weights, self._cell)
                outputs.append(unroll(self._cell, sequence, state, weights, reverse=reverse, alive=alive)[0])
                slopes.append(float(self._of("slope", suffix).mean()))
                levels.append(recurrent_solver.saturation_level(self._cell, sequence, weights, reverse, alive))
            sequence = torch.cat(outputs, -1)
        return sum(slopes) / len(slopes), sum(levels) / len(levels)

    def _make_fresh(self, suffix: str, orthogonal: Callable[[Tensor], None]) -> None:
        """Orthogonal weights for every gate, and biases of 0."""
        weights = self._weights(suffix)
        for weight in (weights.ih, weights.hh):
            for gate in weight.chunk(len(self._cell.slopes)):
                orthogonal(gate)
        if weights.hr is not None:
            orthogonal(weights.hr)
        weights.bias_ih.zero_()
        weights.bias_hh.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; a plain layer has no slopes and shifts, and stands for those of the start."""
        names = [name for name in self._buffers if name.startswith(("slope_", "shift_"))]
        if not any(prefix + name in state_dict for name in names):
            for name in names:
                like = self.get_buffer(name)
                slope = self._slope_at_start(torch.device("cpu") if like.is_meta else like.device, like.dtype)
                state_dict[prefix + name] = slope if name.startswith("slope_") else torch.zeros_like(slope)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move with the model, but keep slopes and shifts in float32 when the model is cast to half precision."""
        before = dict(self._buffers)
        module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype in _HALF:
                self._buffers[name] = old.to(new.device)
        return module


class CoreRNN(RecurrentCores, nn.RNN):
    """`nn.RNN` with tanh, as centered cores of slope 2 and scale 2; see `RecurrentCores`.

    h_t = 2 (sigmoid(slope (W_ih u_t + b_ih + W_hh h_{t-1} + b_hh - shift)) - 1/2).

    Raises:
        ValueError: `nonlinearity` is "relu".

    Example:
        >>> layer, inputs = CoreRNN(3, 8), torch.randn(10, 5, 3)
        >>> torch.equal(layer(inputs)[0], folded(layer)(inputs)[0])
        True
    """

    _plain = nn.RNN


class CoreLSTM(RecurrentCores, nn.LSTM):
    """`nn.LSTM` with a slope and a shift for every row of its gates i, f, g, o; see `RecurrentCores`.

    Example:
        >>> import sigmoidcore as sc
        >>> layer, inputs = CoreLSTM(3, 32), torch.randn(40, 50, 3)
        >>> report = sc.calibrate(layer, inputs, targets=0, loss_fn=lambda outputs, _: outputs[0][-1].sum())
        >>> report.after.spread < 10 < 1e6 < report.before.spread
        True
        >>> report.after.names[:2]
        ('[0]', '[1]')
    """

    _plain = nn.LSTM


class CoreGRU(RecurrentCores, nn.GRU):
    """`nn.GRU` with a slope and a shift for every row of its gates r, z, n; see `RecurrentCores`.

    The new gate is n = tanh(slope / 2 (W_in u + b_in - shift + r (W_hn h + b_hn))): the slope scales both parts.

    Example:
        >>> CoreGRU(3, 8, num_layers=2, bidirectional=True)(torch.randn(10, 5, 3))[0].shape
        torch.Size([10, 5, 16])
    """

    _plain = nn.GRU


_KINDS: dict[type[nn.RNNBase], type[RecurrentCores]] = {kind._plain: kind for kind in (CoreRNN, CoreLSTM, CoreGRU)}
_RELU = "an nn.RNN with relu has no sigmoids, and its outputs no bound: it cannot be made of cores"


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is a recurrent layer or cell of PyTorch's, a quantized one or of a subclass, too."""
    return any(
        base.__name__ in ("RNNBase", "RNNCellBase") and base.__module__.startswith("torch.")
        for base in type(module).__mro__
    )


def why_not(layer: nn.Module) -> str:
    """The reason for which a layer cannot be made of cores, and what to do instead; "" if it can."""
    if isinstance(layer, RecurrentCores):
        return "it is made of cores already"
    if not is_recurrent(layer):
        return "only nn.RNN, nn.LSTM and nn.GRU can"
    if type(layer).__module__.startswith("torch.ao."):
        return "its weights are quantized; convert first, and quantize what fold gives"
    if not isinstance(layer, nn.RNNBase):
        return "a cell does not see its sequence; use nn.RNN, nn.LSTM or nn.GRU, which run over it"
    if type(layer) not in _KINDS:
        return "its forward need not be that of its base class; take off parametrizations, or convert the plain layer"
    if "forward" in layer.__dict__:
        return "its forward was set on the instance; convert first"
    if any(name not in layer._parameters for name in layer._flat_weights_names):
        return "its weights are computed from other parameters (weight_norm, pruning); take that off first"
    return "" if layer.mode in CELLS else _RELU


def converted(layer: nn.Module) -> RecurrentCores:
    """A recurrent layer of cores that computes the same, with the same parameters (not copies), hooks and mode.

    `sigmoidcore.convert` does this to every such layer of a model; this is for a layer by itself.

    Args:
        layer: an `nn.RNN` with tanh, an `nn.LSTM` or an `nn.GRU`; use the result in its place.

    Raises:
        TypeError: another type of module; a cell or a subclass, whose forward need not be that of the layer; weights
            that are quantized or computed from others.
        ValueError: an `nn.RNN` with relu.

    Example:
        >>> plain = nn.LSTM(3, 8)
        >>> layer, inputs = converted(plain), torch.randn(10, 5, 3)
        >>> torch.equal(layer(inputs)[0], plain(inputs)[0])
        True
    """
    why = why_not(layer)
    if why == _RELU:
        raise ValueError(why)
    if why:
        raise TypeError(f"{type(layer).__name__} cannot be made of cores: {why}")
    assert isinstance(layer, nn.RNNBase)
    made = object.__new__(_KINDS[type(layer)])
    made.__dict__.update(layer.__dict__)
    made.__dict__.pop("_compiled_call_impl", None)  # of layer.compile(): it would run the plain layer
    for name in ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"):
        made.__dict__[name] = made.__dict__[name].copy()
    made._add_cores()
    return made


def folded(layer: RecurrentCores) -> nn.RNNBase:
    """The plain layer of PyTorch that computes the same: a copy, with slopes and shifts in its weights.

    It has biases if the layer has, or if a shift is not 0; parameters that do not require a gradient still do not.

    Raises:
        TypeError: `layer` is no recurrent layer of cores.

    Example:
        >>> folded(CoreGRU(3, 8))
        GRU(3, 8)
    """
    if not isinstance(layer, RecurrentCores):
        raise TypeError(f"folded takes a CoreRNN, CoreLSTM or CoreGRU, got {type(layer).__name__}")
    suffixes = [suffix for number in range(layer.num_layers) for suffix in layer._suffixes(number)]
    options: dict[str, Any] = {"proj_size": layer.proj_size} if layer.proj_size else {}
    plain_layer: Any = layer._plain  # its constructor takes no mode, that of the base class does
    plain: nn.RNNBase = plain_layer(
        layer.input_size,
        layer.hidden_size,
        num_layers=layer.num_layers,
        bias=layer.bias or any(bool(layer._of("shift", suffix).any()) for suffix in suffixes),
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        device=layer._of("weight_hh", "l0").device,
        dtype=layer._of("weight_hh", "l0").dtype,
        **options,
    )
    plain.dropout = layer.dropout
    for hooks in [name for name in layer.__dict__ if "hook" in name]:
        plain.__dict__[hooks] = copy(layer.__dict__[hooks])
    with torch.no_grad():
        for suffix in suffixes:
            for name, tensor in zip(_NAMES, layer._effective(suffix), strict=True):
                parameter = getattr(plain, f"{name}_{suffix}", None)
                if isinstance(parameter, nn.Parameter) and tensor is not None:
                    parameter.copy_(tensor)
                    trained = getattr(layer, f"{name}_{suffix}", parameter)
                    parameter.requires_grad_(isinstance(trained, Tensor) and trained.requires_grad)
    return plain.train(layer.training)


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _is_reverse(suffix: str) -> bool:
    return suffix.endswith("_reverse")
