"""A forward pass in segments, from one core to the next: the autograd graph behind a core's input is one segment."""

from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakTensorKeyDictionary

from sigmoidcore._torch.autograd import normalises
from unstuck.observation import bare, leaves, nodes_behind


class Segments:
    """Cuts the graph at the outputs of cores: those are the leaves of the segments that read them."""

    def __init__(self) -> None:
        self._names = WeakTensorKeyDictionary()

    def cut(self, name: str, output: Any) -> Any:
        """The output of a core, or outputs and last states of a recurrent layer, as leaves of the next segments."""
        if isinstance(output, PackedSequence):
            return output._replace(data=self.cut(name, output.data))
        if not isinstance(output, Tensor):
            return tuple(self.cut(name, part) for part in output)
        leaf = bare(output).requires_grad_()
        self._names[leaf] = name
        return leaf.clone()  # the model may change it in place

    def behind(self, x: Tensor) -> tuple[list[Tensor], bool]:
        """The leaves of the segment that ends in a tensor, and whether it contains a normalisation."""
        found = [leaf for leaf in leaves(x) if leaf in self._names]
        return found, any(normalises(node) for node in nodes_behind(x))

    def name(self, leaf: Tensor) -> str:
        """The core that a leaf is the output of."""
        name: str = self._names[leaf]
        return name

    def sources(self, x: Tensor) -> list[str]:
        """The cores that feed a tensor."""
        return [self.name(leaf) for leaf in self.behind(x)[0]]
