"""Recurrent layers that gates of cores are compared with: the layers of their papers, in the loop that all share.

Each reads [batch, steps, features] and returns its outputs [batch, steps, hidden_size] and None, as `nn.LSTM` returns
outputs and a state. What the authors' loops have beside the layer is left out: IRNN's clipping of gradients, expRNN's
smaller rate for the orthogonal weights. All have the same number of units, and so different numbers of parameters.
"""

import math

import torch
from torch import Tensor, nn


class URLSTM(nn.Module):
    """LSTM with a refine gate in the place of the input gate, and forget gates that begin uniformly in (0, 1).

    Source:
        Gu, Gulcehre, Paine, Hoffman and Pascanu (2020), arXiv 1910.09890, sections 3.2 and 3.3.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units
        self.input, self.hidden = nn.Linear(features, 4 * units), nn.Linear(units, 4 * units, bias=False)
        forget = torch.empty(units).uniform_(1 / units, 1 - 1 / units).logit()
        with torch.no_grad():
            self.input.bias.copy_(torch.cat([forget, -forget, torch.zeros(2 * units)]))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        h = c = x.new_zeros(len(x), self.hidden_size)
        outputs = []
        for read in self.input(x).unbind(1):
            forget, refine, update, out = (read + self.hidden(h)).chunk(4, 1)
            f, r = forget.sigmoid(), refine.sigmoid()
            g = r * (1 - (1 - f).square()) + (1 - r) * f.square()
            c = torch.lerp(update.tanh(), c, g)
            h = out.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), None


class IRNN(nn.RNN):
    """ReLU units whose recurrent weights begin as the identity, and the others at 0.001.

    Source:
        Le, Jaitly and Hinton (2015), arXiv 1504.00941.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__(features, units, nonlinearity="relu", batch_first=True)
        nn.init.normal_(self.weight_ih_l0, std=0.001)
        nn.init.eye_(self.weight_hh_l0)
        for bias in (self.bias_ih_l0, self.bias_hh_l0):
            nn.init.zeros_(bias)


class ExpRNN(nn.Module):
    """Recurrent weights that stay orthogonal, the exponential of a skew-symmetric matrix, and a modified ReLU.

    Source:
        Lezcano-Casado and Martinez-Rubio (2019), arXiv 1901.08428; weights begin as rotations by angles that are
        uniform up to half a turn (Henaff, Szlam, LeCun 2016), the modified ReLU as in Arjovsky, Shah, Bengio (2016).
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units
        self.input = nn.Linear(features, units, bias=False)
        nn.init.kaiming_normal_(self.input.weight)
        angles = torch.zeros(units - 1)
        angles[::2] = torch.empty(len(angles[::2])).uniform_(-math.pi, math.pi)
        self.angles = nn.Parameter(torch.diag(angles, 1))
        self.shift = nn.Parameter(torch.zeros(units))

    def rotation(self) -> Tensor:
        """The recurrent weights."""
        upper = self.angles.triu(1)
        return torch.linalg.matrix_exp(upper - upper.T)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        h, weight, outputs = x.new_zeros(len(x), self.hidden_size), self.rotation().T, []
        for read in self.input(x).unbind(1):
            z = torch.addmm(read, h, weight)
            h = z.sign() * torch.relu(z.abs() + self.shift)
            outputs.append(h)
        return torch.stack(outputs, 1), None


class LinearRecurrentUnit(nn.Module):
    """A diagonal linear recurrence of complex numbers, computed for all steps at once; inputs are normalised.

    Eigenvalues begin in a ring, with phases up to a limit; the ring is the layer's knob.

    Source:
        Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu and De (2023), arXiv 2303.06349.
    """

    def __init__(self, units: int, low: float, high: float, phase: float) -> None:
        super().__init__()
        radius = torch.empty(units).uniform_(low**2, high**2).sqrt()
        self.decay = nn.Parameter(radius.log().neg().log())
        self.phase = nn.Parameter(torch.empty(units).uniform_(1e-3, phase).log())
        self.read = nn.Parameter(torch.randn(units, units, 2) / math.sqrt(2 * units))
        self.write = nn.Parameter(torch.randn(units, units, 2) / math.sqrt(units))
        self.scale = nn.Parameter((1 - radius.square()).sqrt().log())
        self.skip = nn.Parameter(torch.randn(units))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1])
        powers = torch.polar((-self.decay.exp() * steps[:, None]).exp(), self.phase.exp() * steps[:, None])
        driven = self.scale.exp() * (x.to(torch.complex64) @ torch.view_as_complex(self.read).T)
        length = 2 * x.shape[1]  # else the convolution is cyclic
        states = torch.fft.ifft(torch.fft.fft(powers, length, 0) * torch.fft.fft(driven, length, 1), dim=1)
        return (states[:, : x.shape[1]] @ torch.view_as_complex(self.write).T).real + self.skip * x


class LRU(nn.Module):
    """Two residual blocks of normalisation, linear recurrent unit, GELU and gated linear unit."""

    ring = 0.9, 0.999, math.pi / 10

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units
        self.enter = nn.Linear(features, units)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(units),
                LinearRecurrentUnit(units, *self.ring),
                nn.GELU(),
                nn.Linear(units, 2 * units),
                nn.GLU(),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return x, None


class WideLRU(LRU):
    """The same, with eigenvalues from the whole unit disk, as public implementations have them."""

    ring = 0.0, 1.0, 2 * math.pi


RIVALS: dict[str, tuple[type[nn.Module], tuple[float, ...]]] = {
    "ur-lstm": (URLSTM, (0.003, 0.01, 0.03)),
    "irnn": (IRNN, (0.0003, 0.001, 0.003)),
    "exprnn": (ExpRNN, (0.001, 0.003, 0.01)),
    "lru": (LRU, (0.001, 0.003, 0.01)),
    "lru wide": (WideLRU, (0.001, 0.003, 0.01)),
}
"""By kind: the layer, of features and units, and the rates that are tried."""
