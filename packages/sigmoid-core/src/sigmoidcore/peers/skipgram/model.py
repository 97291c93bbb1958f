"""The model: two vectors a word, whose product passes a core."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore


class SkipGram(nn.Module):
    """The probability that a word occurs near another one: sigmoid(slope * input vector . output vector).

    A slope changes nothing that a rate does not change: with sqrt(slope) times the vectors and slope times the rate,
    slope 1 gives the same probabilities at every step. Nor does a saturated score lose its gradient: that of the loss,
    slope * (label - probability), is largest where the score is wrong.

    Attributes:
        inputs: the word vectors, shape [words, dimensions].
        outputs: vectors of words as neighbours, the same shape; 0 at first.
        core: what the score passes.

    Example:
        >>> SkipGram(100, 8)(torch.tensor([3]), torch.tensor([5]))
        tensor([0.5000], grad_fn=<SigmoidBackward0>)
    """

    def __init__(self, words: int, dimensions: int, slope: float = 1.0) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.empty(words, dimensions).uniform_(-1 / dimensions, 1 / dimensions))
        self.outputs = nn.Parameter(torch.zeros(words, dimensions))
        self.core = SigmoidCore(alpha=slope)

    def forward(self, words: Tensor, neighbours: Tensor) -> Tensor:
        """Probabilities, of the shape of both."""
        probabilities: Tensor = self.core((self.inputs[words] * self.outputs[neighbours]).sum(-1))
        return probabilities


@dataclass(frozen=True)
class Batch:
    """Blocks of the text. Each word of a block is compared with all neighbours and all negatives of its block."""

    words: Tensor  # shape [blocks, words]
    others: Tensor  # neighbours, then negatives, shape [blocks, neighbours + negatives]
    positive: Tensor  # weights of pairs of a word and a neighbour, shape [blocks, words, neighbours]; 0: not a pair
    negative: Tensor  # weights of the pairs of a word and a negative, shape [blocks, words, 1]

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sum of the weights of the pairs of each word, and of each neighbour or negative."""
        negatives = self.others.shape[1] - self.positive.shape[2]
        negative = self.negative.sum(1).expand(-1, negatives)
        return (
            self.positive.sum(2) + negatives * self.negative.squeeze(2),
            torch.cat([self.positive.sum(1), negative], 1),
        )


class Gradient:
    """The gradient of a batch's loss by the vectors, in memory that is used again: fresh memory costs page faults."""

    def __init__(self, model: SkipGram, blocks: int, words: int, neighbours: int, others: int) -> None:
        dimensions = model.inputs.shape[1]
        self._model, self._neighbours = model, neighbours
        self._x, self._dx = (model.inputs.new_empty(blocks * words, dimensions) for _ in range(2))
        self._z, self._dz = (model.inputs.new_empty(blocks * others, dimensions) for _ in range(2))
        self._errors = model.inputs.new_empty(blocks, words, others)

    @torch.no_grad()
    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Gradients by the vectors of `batch.words` and of `batch.others`, each of shape [all, dimensions].

        With e = weight * (probability - label), they are slope * e z and slope * e x for each pair.
        """
        model, errors = self._model, self._errors
        alpha = float(model.core.alpha)
        torch.index_select(model.inputs, 0, batch.words.flatten(), out=self._x)
        torch.index_select(model.outputs, 0, batch.others.flatten(), out=self._z)
        x, z = self._x.view(*batch.words.shape, -1), self._z.view(*batch.others.shape, -1)
        torch.bmm(x, z.mT, out=errors)
        torch.sigmoid(errors if alpha == 1 else errors.mul_(alpha), out=errors)
        positive, negative = errors[..., : self._neighbours], errors[..., self._neighbours :]
        positive.sub_(1).mul_(batch.positive * alpha)
        negative.mul_(batch.negative * alpha)
        torch.bmm(errors, z, out=self._dx.view_as(x))
        torch.bmm(errors.mT, x, out=self._dz.view_as(z))
        return self._dx, self._dz


def loss(model: SkipGram, batch: Batch) -> Tensor:
    """Sum over all pairs of -weight log(probability of the label)."""
    z = model.core.alpha * (model.inputs[batch.words] @ model.outputs[batch.others].mT)
    neighbours = batch.positive.shape[-1]
    positive = batch.positive * nn.functional.logsigmoid(z[..., :neighbours])
    negative = batch.negative * nn.functional.logsigmoid(-z[..., neighbours:])
    return -(positive.sum() + negative.sum())
