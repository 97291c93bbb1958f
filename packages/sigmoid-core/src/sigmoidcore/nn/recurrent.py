"""PyTorch's recurrent layers as cores: nn.RNN (tanh), nn.LSTM and nn.GRU with a slope and a shift for every gate row.

Slopes and shifts are folded into the rows of the weights for each call, which PyTorch's own fused kernel then runs:
with several layers, both directions, projections, packed sequences and dropout, like the plain layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from sigmoidcore._torch.modules import give_hooks
from sigmoidcore._torch.recurrent import with_flat_weights, with_same_parameters
from sigmoidcore.core import HALF, CoreModule
from sigmoidcore.nn.recurrent_cells import CELLS, Cell, Sequences, State, Weights, fold
from unstuck.observation import uncompiled


class RecurrentCores(CoreModule, nn.RNNBase):
    """What `CoreRNN`, `CoreLSTM` and `CoreGRU` have in common; use one of these.

    Arguments, parameters, inputs and outputs are those of PyTorch's layer. As constructed it computes the same, bit for
    bit (without `bias`, to rounding). A state dict without slopes and shifts, that of the plain layer, resets them.

    `sigmoidcore.calibrate` levels the gradient over the sequences given, from the zero state; `sigmoidcore.prepare`
    draws fresh weights first, orthogonal for every gate. In a `sigmoidcore.gradient_profile` step t of a layer is named
    `lstm[t]`, or `lstm[l1_reverse,t]` if there are several layers or directions; its size is that of the gradient of
    h_t, or of c_t for an LSTM.

    Attributes:
        slope_l0: buffer, [gates * hidden_size], in the order of the rows of `weight_ih_l0`; positive. float32 (or
            float64) also where the weights are of half precision.
        shift_l0: buffer, likewise; subtracted from W_ih u + W_hh h + b. (And so on: `slope_l0_reverse`, ...)
    """

    _plain: type[nn.RNNBase]  # the layer of PyTorch
    cell: Cell  # one step of it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.mode not in CELLS:
            raise ValueError(f"{_RELU}; use nonlinearity='tanh'")
        self._add_cores()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights, as PyTorch's layer does, and set slopes and shifts to the initial ones."""
        nn.RNNBase.reset_parameters(self)
        super().reset_parameters()

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run over all steps, as the layer of PyTorch does."""
        if torch.compiler.is_dynamo_compiling():  # it breaks its graph at recurrent layers, and 2.15 reads them wrong
            return uncompiled(self._run_kernel)(input, hx)
        return self._run_kernel(input, hx)

    def run_stepwise(self, input: Any, state: Any = None, *, on_step: Callable[[str, Tensor], None]) -> tuple[Any, Any]:
        """The same as the fused kernel, in a Python loop; `on_step` gets h_t, or c_t of an LSTM."""
        unbatched = isinstance(input, Tensor) and input.dim() == 2
        starts: list[Tensor] | None = None
        if state is not None:
            starts = [h.unsqueeze(1) if unbatched else h for h in (state if isinstance(state, tuple) else (state,))]
        ends: list[State] = []
        several = self.num_layers > 1 or self.bidirectional

        def run(suffix: str, sequences: Sequences) -> Tensor:
            start = None if starts is None else tuple(h[len(ends)] for h in starts)
            place = f"{suffix}," if several else ""
            weights = self.effective_weights(suffix)
            output, end = sequences.unroll(weights, start, lambda step, memory: on_step(f"{place}{step}", memory))
            ends.append(end)
            return output

        outputs = self.run_layers(input, run)
        last = tuple(torch.stack(tensors) for tensors in zip(*ends, strict=True))
        if unbatched:
            last = tuple(h.squeeze(1) for h in last)
        return self._in_form_of(outputs, input), last if self.cell.states > 1 else last[0]

    def run_layers(self, input: Tensor | PackedSequence, run: Callable[[str, Sequences], Tensor]) -> Tensor:
        """Run all layers, of which `run` gets suffix and inputs and gives the outputs, [steps, batch, features]."""
        sequence, alive = self._as_sequence(input)
        for layer in range(self.num_layers):
            if layer:
                sequence = nn.functional.dropout(sequence, self.dropout, self.training)
            directions = [s for s in self.suffixes if s.removesuffix("_reverse") == f"l{layer}"]
            outputs = [run(s, Sequences(self.cell, sequence, s.endswith("_reverse"), alive)) for s in directions]
            sequence = torch.cat(outputs, -1)
        return sequence

    @property
    def suffixes(self) -> list[str]:
        """Of the names of the parameters: l0, l0_reverse, l1, ..."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def tensor(self, name: str, suffix: str) -> Tensor:
        """A parameter or buffer: `tensor("slope", "l0")`."""
        tensor = getattr(self, f"{name}_{suffix}")
        assert isinstance(tensor, Tensor)
        return tensor

    def weights(self, suffix: str) -> Weights:
        """The weights as they are trained; a layer without biases has biases of 0."""
        ih, hh = self.tensor("weight_ih", suffix), self.tensor("weight_hh", suffix)
        no_bias = ih.new_zeros(0 if self.bias else len(ih))
        b_ih, b_hh = (self.tensor(f"bias_{w}", suffix) if self.bias else no_bias for w in ("ih", "hh"))
        return Weights(ih, hh, b_ih, b_hh, self.tensor("weight_hr", suffix) if self.proj_size else None)

    def effective_weights(self, suffix: str) -> Weights:
        """The weights with slopes and shifts folded in."""
        return fold(self.cell, self.weights(suffix), self.tensor("slope", suffix), self.tensor("shift", suffix))

    def _as_sequence(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """[steps, batch, features], and which of the packed sequences still go on, [steps, batch, 1]."""
        if isinstance(input, PackedSequence):
            self.check_input(input.data, input.batch_sizes)
            sequence, lengths = pad_packed_sequence(input)
            alive = torch.arange(len(sequence)).unsqueeze(1) < lengths
            return sequence, alive.unsqueeze(-1).to(sequence.device)
        sequence = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if self.batch_first else input
        self.check_input(sequence, None)
        return sequence, None

    def _in_form_of(self, outputs: Tensor, input: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """[steps, batch, features] in the form of the input."""
        if isinstance(input, PackedSequence):
            order = input.sorted_indices
            alive = torch.arange(outputs.shape[1]) < input.batch_sizes.unsqueeze(1)
            return input._replace(data=(outputs if order is None else outputs[:, order])[alive])
        if input.dim() == 2:
            return outputs.squeeze(1)
        return outputs.transpose(0, 1) if self.batch_first else outputs

    def _run_kernel(self, input: Any, hx: Any) -> Any:
        flat = [t for suffix in self.suffixes for t in self.effective_weights(suffix) if t is not None]
        return self._plain.forward(with_flat_weights(self, self._plain, flat), input, hx)

    def _add_cores(self) -> None:
        for suffix in self.suffixes:
            weight = self.tensor("weight_hh", suffix)
            dtype = torch.float32 if weight.dtype in HALF else weight.dtype
            for name in ("slope", "shift"):
                self.register_buffer(f"{name}_{suffix}", weight.new_empty(len(weight), dtype=dtype))
        CoreModule.reset_parameters(self)

    def initial_values(self) -> dict[str, Tensor]:
        """See `CoreModule`; [gates * hidden_size] each, and none while the layer is made."""
        values: dict[str, Tensor] = {}
        for name, like in self.named_buffers(recurse=False):
            if not like.dim():
                values[name] = torch.tensor(0)
                continue
            slopes = torch.tensor(self.cell.slopes, dtype=like.dtype, device="cpu" if like.is_meta else like.device)
            rows = slopes.repeat_interleave(self.hidden_size)
            values[name] = rows if name.startswith("slope_") else torch.zeros_like(rows)
        return values


class CoreRNN(RecurrentCores, nn.RNN):
    """`nn.RNN` with tanh, as centered cores of slope 2 and scale 2; see `RecurrentCores`.

    h_t = 2 (sigmoid(slope (W_ih u_t + b_ih + W_hh h_{t-1} + b_hh - shift)) - 1/2).

    Attributes:
        steps: buffer, the length of the sequences that it was calibrated for (0: it was not), see `depth_scaled_lr`.

    Raises:
        ValueError: `nonlinearity` is "relu".

    Example:
        >>> layer, inputs = CoreRNN(3, 8), torch.randn(10, 5, 3)
        >>> torch.equal(layer(inputs)[0], folded(layer)(inputs)[0])
        True
    """

    _plain, cell = nn.RNN, CELLS["RNN_TANH"]
    steps: Tensor

    def _add_cores(self) -> None:
        self.register_buffer("steps", torch.tensor(0))
        super()._add_cores()


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

    _plain, cell = nn.LSTM, CELLS["LSTM"]


class CoreGRU(RecurrentCores, nn.GRU):
    """`nn.GRU` with a slope and a shift for every row of its gates r, z, n; see `RecurrentCores`.

    The new gate is n = tanh(slope / 2 (W_in u + b_in - shift + r (W_hn h + b_hn))): the slope scales both parts.

    Example:
        >>> CoreGRU(3, 8, num_layers=2, bidirectional=True)(torch.randn(10, 5, 3))[0].shape
        torch.Size([10, 5, 16])
    """

    _plain, cell = nn.GRU, CELLS["GRU"]


_KINDS: dict[type[nn.RNNBase], type[RecurrentCores]] = {kind._plain: kind for kind in (CoreRNN, CoreLSTM, CoreGRU)}
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # of the parameters, as in `Weights`
_RELU = "an nn.RNN with relu has no sigmoids, and its outputs no bound: it cannot be made of cores"


def is_recurrent(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's recurrent layers or cells, a subclass or a quantized one."""
    bases = (base for base in type(module).__mro__ if base.__name__ in ("RNNBase", "RNNCellBase"))
    return any(base.__module__.startswith("torch.") for base in bases)


def why_not(layer: nn.Module) -> str:
    """Why a layer cannot be made of cores, and what to do instead; "" if it can."""
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
    if not all(isinstance(weight, nn.Parameter) for weights in layer.all_weights for weight in weights):
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
    made = with_same_parameters(layer, _KINDS[type(layer)])
    made._add_cores()
    return made


def folded(layer: RecurrentCores) -> nn.RNNBase:
    """The plain layer of PyTorch that computes the same: a copy, with slopes and shifts in its weights.

    It has biases if the layer has, or if a shift is not 0; parameters that do not require a gradient still do not.

    Raises:
        TypeError: `layer` is not a recurrent layer of cores.

    Example:
        >>> folded(CoreGRU(3, 8))
        GRU(3, 8)
    """
    if not isinstance(layer, RecurrentCores):
        raise TypeError(f"folded takes a CoreRNN, CoreLSTM or CoreGRU, got {type(layer).__name__}")
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("num_layers", "batch_first", "bidirectional")}
    options |= {"proj_size": layer.proj_size} if layer.proj_size else {}
    options["bias"] = layer.bias or any(bool(layer.tensor("shift", suffix).any()) for suffix in layer.suffixes)
    plain_layer: Any = layer._plain  # its constructor takes no mode, that of the base class does
    like = layer.tensor("weight_hh", "l0")
    plain: nn.RNNBase = plain_layer(
        layer.input_size, layer.hidden_size, device=like.device, dtype=like.dtype, **options
    )
    plain.dropout = layer.dropout
    give_hooks(layer, plain, copies=True)
    with torch.no_grad():
        for suffix in layer.suffixes:
            for name, tensor in zip(_NAMES, layer.effective_weights(suffix), strict=True):
                parameter = getattr(plain, f"{name}_{suffix}", None)
                if isinstance(parameter, nn.Parameter) and tensor is not None:
                    parameter.copy_(tensor)
                    parameter.requires_grad_(getattr(layer, f"{name}_{suffix}", parameter).requires_grad)
    return plain.train(layer.training)
