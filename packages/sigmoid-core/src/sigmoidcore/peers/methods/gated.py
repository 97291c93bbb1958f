"""Recurrent layers with gates: LSTM and GRU, as PyTorch has them."""

from functools import partial

from torch import Tensor, nn

from sigmoidcore.nn.networks import RNN
from sigmoidcore.peers.method import Method, Problem


class LastStep(nn.Module):
    """A recurrent layer [batch, steps, features], and a linear layer on the outputs of its last step."""

    def __init__(self, layer: nn.RNNBase | RNN, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.last = nn.Linear(layer.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Run over all steps."""
        outputs: Tensor = self.last(self.layer(x)[0][:, -1])
        return outputs


def build(problem: Problem, layer: type[nn.LSTM] | type[nn.GRU]) -> nn.Module:
    """As many layers as the problem's depth; PyTorch's weights."""
    return LastStep(layer(problem.features, problem.width, num_layers=problem.depth, batch_first=True), problem.outputs)


_LSTM = "Hochreiter and Schmidhuber (1997), Neural Computation 9:1735; Gers et al. (2000)"
METHODS = (
    Method("lstm", _LSTM, partial(build, layer=nn.LSTM), kinds=("rnn",)),
    Method("gru", "Cho et al. (2014), arXiv 1406.1078", partial(build, layer=nn.GRU), kinds=("rnn",)),
)
