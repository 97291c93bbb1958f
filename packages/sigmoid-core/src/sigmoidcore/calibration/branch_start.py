"""The start of a network of residual branches without norms: a stream of one size, a level profile behind its sums.

With x' = x + b and branches b that are uncorrelated with x, the stream grows as r'^2 = r^2 + b^2. N branches of size
s r / sqrt(N), with r of the first stream, make it sqrt(1 + s^2) times as large at the end, whatever the depth. Going
back, a branch that is not normalised adds b^2 / r^2 of the squared gradient: G^2 = G'^2 (1 + b^2 / r^2). So G falls by
as much as r grows, and the profile is level to a factor of sqrt(1 + s^2): 1.12 for s = 1/2.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.attention import last_part, make_orthogonal_attention, output_in, read_by, size_projections
from sigmoidcore.calibration.branches import Branch, find_branches, weight_of, weighted_layers
from sigmoidcore.calibration.orthogonal import WEIGHTED, check_weights, make_orthogonal
from unstuck.observation import Inputs, LayerObserver, root_mean_square, run, undisturbed

SHARE = 0.5
"""s. With 1, a language model of 6 blocks had a larger loss after 300 steps: 2.20 instead of 2.16."""
PASSES = 8
TINY = 0.1
"""A factor of a branch below this share of its wanted size gets a note: the weights before it have to be large."""
FEW, FASTER = 3, 4.0
"""Of more branches, it is said if their last layers make them small, all of them by more than this factor."""
NEAR = 1.05
"""Branches of a size within this factor of the wanted one are not corrected further."""


@torch.no_grad()
def start_branches(model: nn.Module, inputs: Inputs, branches: tuple[Branch, ...], note: Callable[[str], None]) -> None:
    """Draw orthogonal weights, give every layer outputs of size 1, the stream too, and branches their share of it."""
    if not branches:
        raise ValueError(
            "branches=True, and no residual branch was found: write x + branch(x) as a sum of two tensors in Python, "
            "one of which layers compute from the other"
        )
    _scale_embeddings(model, inputs, branches[0].stream, note)
    layers = _own_layers(model, note)
    check_weights(dict(model.named_modules()))
    share = SHARE * len(branches) ** -0.5
    ends = {end: share / (b.factor if 0 < b.factor < math.inf else 1.0) for b in branches for end in b.ends}
    drawing = _Drawing(layers, ends)  # its seed is drawn outside of `undisturbed`, which puts the generator back
    with undisturbed(model, inputs), drawing, torch.enable_grad():  # else nn.TransformerEncoderLayer runs no parts
        run(model, inputs)
    if drawing.waiting:
        note(
            f"layer '{next(iter(drawing.waiting))}' did not run as a module, so its weights stay, and a branch of such "
            "layers alone is not found: call the layer itself in the forward"
        )


@torch.no_grad()
def size_branches(model: nn.Module, inputs: Inputs, note: Callable[[str], None]) -> None:
    """Give every branch its share of the stream, by the weights of its last layer."""
    layers = _own_layers(model, note)
    for _ in range(PASSES):
        branches = find_branches(model, inputs).branches
        if not _size(branches, layers):
            break
    share = SHARE * len(branches) ** -0.5
    if len(branches) > FEW and all(branch.factor > FASTER * share for branch in branches):
        note(
            f"branches are small by their weights, which Adam changes faster than large ones: write x + {share:.3g} * "
            "branch(x) in the model, and prepare again"
        )
    tiny = min((b.factor for b in branches if 0 < b.factor < TINY * share), default=None)
    if tiny is not None:
        note(
            f"branches are multiplied by {tiny:.3g}, so that the weights of their last layers have to be large, and "
            f"Adam hardly changes these: let this factor start at {share:.3g}, and prepare again"
        )
    far = [b.layers[-1] for b in branches if not _is_near(b, _wanted(branches))]
    if far:
        note(
            f"the output of {len(far)} branches does not follow the weights of its last layer, '{far[0]}': multiply "
            f"these branches by {share:.3g}"
        )


def _size(branches: tuple[Branch, ...], layers: Mapping[str, nn.Module]) -> bool:
    """Scale the last layers of branches that have not their size; whether there were any."""
    ratios: dict[nn.Parameter | None, tuple[nn.Module, list[float]]] = {}  # by weight: branches may share one
    wanted = _wanted(branches)
    for branch in branches:
        if branch.size > 0 and not _is_near(branch, wanted):
            for layer in (layers[end] for end in branch.ends if end in layers):
                ratios.setdefault(weight_of(layer), (layer, []))[1].append(wanted / branch.size)
    for layer, of_branches in ratios.values():
        _scale(layer, math.prod(ratio ** (1 / len(of_branches)) for ratio in of_branches))
    return bool(ratios)


def _wanted(branches: tuple[Branch, ...]) -> float:
    """The size of every branch: that of the stream at the first sum, over sqrt(branches)."""
    return SHARE * branches[0].stream / math.sqrt(len(branches))


def _is_near(branch: Branch, wanted: float) -> bool:
    return wanted / NEAR <= branch.size <= wanted * NEAR


def _scale(layer: nn.Module, factor: float) -> None:
    for parameter in last_part(layer).parameters(recurse=False):
        parameter.mul_(factor)


def _own_layers(model: nn.Module, note: Callable[[str], None]) -> dict[str, nn.Module]:
    """The layers whose weights train, and are not those of an embedding, too."""
    embeddings = {id(e.weight) for e in model.modules() if isinstance(e, nn.Embedding)}
    layers = weighted_layers(model)
    shared = [name for name, layer in layers.items() if id(weight_of(layer)) in embeddings]
    frozen = [name for name, layer in layers.items() if not all(p.requires_grad for p in _parameters(layer))]
    if shared:
        note(f"layer '{shared[0]}' has the weight of an embedding, which it keeps: its outputs may be large")
    if frozen:
        note("weights with requires_grad=False were kept; unfreeze those that should be drawn anew")
    return {name: layer for name, layer in layers.items() if name not in {*shared, *frozen}}


def _parameters(layer: nn.Module) -> Iterator[nn.Parameter]:
    return layer.parameters(recurse=isinstance(layer, nn.MultiheadAttention))


def _scale_embeddings(model: nn.Module, inputs: Inputs, size: float, note: Callable[[str], None]) -> None:
    """Give the stream, which has this size, the size 1 if embeddings alone make it."""
    embeddings = [e for e in model.modules() if isinstance(e, nn.Embedding) and e.weight.requires_grad]
    before = [e.weight.clone() for e in embeddings]
    for e in embeddings if size > 0 else ():
        e.weight.div_(size)
    now = find_branches(model, inputs).branches[0].stream
    if not 0.95 < now < 1.05:
        for e, weight in zip(embeddings, before, strict=True):
            e.weight.copy_(weight)
        if embeddings:
            note(f"the stream starts with the size {size:.3g}: no scale of the embeddings makes it 1")


class _Drawing(LayerObserver):
    """Draws a layer when the batch first reaches it, and sizes its outputs: 1 if `sizes` has no other one."""

    def __init__(self, layers: Mapping[str, nn.Module], sizes: Mapping[str, float]) -> None:
        super().__init__(layers)
        self._sizes = sizes
        self.waiting = dict(layers)
        self._drawn: set[nn.Parameter | None] = set()
        self._rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        if name in self.waiting and weight_of(layer) not in self._drawn:
            if isinstance(layer, nn.MultiheadAttention):
                make_orthogonal_attention(layer, self._rng)
            elif isinstance(layer, WEIGHTED):
                make_orthogonal(layer, self._rng)
        return x

    @torch.no_grad()
    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        made = output_in(layer, output)
        if self.waiting.pop(name, None) is None or weight_of(layer) in self._drawn or not isinstance(made, Tensor):
            return output
        self._drawn.add(weight_of(layer))
        if isinstance(layer, nn.MultiheadAttention):
            size_projections(layer, read_by(args, kwargs))
            made = layer.forward(*args, **kwargs)[0]
        size = root_mean_square(made)
        if 0 < size < math.inf:
            _scale(layer, self._sizes.get(name, 1.0) / size)
        with torch.enable_grad():
            return layer.forward(*args, **kwargs)
