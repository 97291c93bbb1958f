"""Networks of cores: an MLP of any depth, and a recurrent layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore, Stepwise, sigmoid_core
from sigmoidcore.nn.rows import Chain as Chain


class MLP(Chain):
    """A plain multilayer perceptron: `depth` times Linear and activation, then Linear. No skips, no normalisation.

    Call `sigmoidcore.prepare(model, inputs)` before training.

    Args:
        in_features: number of inputs.
        width: neurons of each hidden layer.
        depth: number of hidden layers.
        out_features: number of outputs.
        activation: makes the activation of a layer from its width; default: a centered `SigmoidCore` of slope 4.
            Use `activation=lambda width: nn.Sigmoid()` for the plain network of the same weights.

    Shape:
        Input [batch, ..., in_features], output [batch, ..., out_features].

    Raises:
        ValueError: a size is smaller than 1.

    Example:
        >>> MLP(64, 32, 3, 10)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        *,
        activation: Callable[[int], nn.Module] | None = None,
    ) -> None:
        _check_sizes(in_features=in_features, width=width, depth=depth, out_features=out_features)
        make = activation or (lambda features: SigmoidCore(features, alpha=4.0, centered=True))
        layers: list[nn.Module] = []
        for layer in range(depth):
            layers += [nn.Linear(width if layer else in_features, width), make(width)]
        super().__init__(*layers, nn.Linear(width, out_features))


class RNN(Stepwise):
    """A recurrent layer of centered cores, run by PyTorch's own fused tanh kernel.

    x_t = W_ih u_t + W_hh y_{t-1} + b,  y_t = sigmoid(alpha (x_t - mu)) - 1/2. `sigmoidcore.prepare` sets an orthogonal
    W_hh, the size of W_ih, the shift and the one slope for which the gradient keeps its size through time.

    Args:
        input_size: features of a step.
        hidden_size: neurons.
        batch_first: input and output are [batch, steps, features] instead of [steps, batch, features].

    Attributes:
        weight_ih: [hidden_size, input_size].
        weight_hh: [hidden_size, hidden_size].
        bias: [hidden_size].
        slope: buffer, [].
        shift: buffer, [hidden_size].
        steps: buffer, the length of the sequences that it was prepared for (0: it was not), see `depth_scaled_lr`.

    Shape:
        Input [steps, batch, input_size]; optional state [1, batch, hidden_size], the outputs y before the first step.
        Output [steps, batch, hidden_size] and the last state [1, batch, hidden_size].

    Raises:
        ValueError: a size is smaller than 1, or the input has another number of dimensions or features.

    Example:
        >>> output, state = RNN(3, 16)(torch.zeros(10, 5, 3))
        >>> output.shape, state.shape
        (torch.Size([10, 5, 16]), torch.Size([1, 5, 16]))
    """

    slope: Tensor
    shift: Tensor
    steps: Tensor

    def __init__(self, input_size: int, hidden_size: int, *, batch_first: bool = False) -> None:
        super().__init__()
        _check_sizes(input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.batch_first = batch_first
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.register_buffer("slope", torch.empty(()))
        self.register_buffer("shift", torch.empty(hidden_size))
        self.register_buffer("steps", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal weights; slope 4, no bias, no shift."""
        super().reset_parameters()
        nn.init.orthogonal_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)
        nn.init.zeros_(self.bias)

    def initial_values(self) -> dict[str, Tensor]:
        """See `core.CoreModule`."""
        values = {name: torch.zeros_like(b, device="cpu" if b.is_meta else None) for name, b in self.named_buffers()}
        return values | {"slope": torch.full_like(values["slope"], 4.0)}

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over all steps; see the class."""
        if inputs.dim() != 3 or inputs.shape[-1] != self.input_size:
            order = "[batch, steps, features]" if self.batch_first else "[steps, batch, features]"
            raise ValueError(
                f"RNN takes {order} with {self.input_size} features, but the input has shape {tuple(inputs.shape)}"
            )
        if state is None:
            state = inputs.new_zeros(1, inputs.shape[0 if self.batch_first else 1], self.hidden_size)
        half = self.slope.to(inputs.dtype) / 2  # y = tanh(z/2)/2: 2 y is the h of nn.RNN with the weights below
        bias = half * (self.bias - self.shift.to(inputs.dtype))
        weights = [half * self.weight_ih, half / 2 * self.weight_hh, bias, torch.zeros_like(bias)]
        output, last = torch.rnn_tanh(inputs, 2 * state, weights, True, 1, 0.0, self.training, False, self.batch_first)
        return output / 2, last / 2

    def run_stepwise(
        self, input: Tensor, state: Tensor | None = None, *, on_step: Callable[[str, Tensor], None]
    ) -> tuple[Tensor, Tensor]:
        """The same in a Python loop; `on_step` gets x_t, [batch, hidden_size]."""
        sequence = input.transpose(0, 1) if self.batch_first else input
        y = sequence.new_zeros(sequence.shape[1], self.hidden_size) if state is None else state[0]
        outputs = []
        alpha, shift = self.slope.to(input.dtype), self.shift.to(input.dtype)
        for step, u in enumerate(sequence):
            x = nn.functional.linear(u, self.weight_ih, self.bias) + nn.functional.linear(y, self.weight_hh)
            on_step(str(step), x)
            y = sigmoid_core(x, alpha, shift, centered=True)
            outputs.append(y)
        return torch.stack(outputs, 1 if self.batch_first else 0), y.unsqueeze(0)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
