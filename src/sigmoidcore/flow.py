"""What becomes of a value in a graph: is it read by layers, does it multiply a signal, does it reach the output?"""

from collections.abc import Callable, Iterator
from enum import Enum

from torch import fx, nn

from sigmoidcore.graph import Part

_PRODUCTS = frozenset(
    "mul imul multiply div truediv itruediv divide true_divide lerp addcmul addcdiv glu "
    "matmul imatmul mm bmm mv dot inner outer einsum tensordot addmm baddbmm scaled_dot_product_attention".split()
)
_LAYERS = frozenset(
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding embedding_bag "
    "batch_norm layer_norm group_norm instance_norm rms_norm multi_head_attention_forward".split()
)
_CONTRACTIONS = frozenset("matmul imatmul mm bmm mv dot inner einsum tensordot addmm baddbmm".split())
"""With a weight on the other side these are layers; an elementwise product with a weight only scales."""
_ABOUT = frozenset("size dim ndim numel nelement stride shape dtype device is_cuda requires_grad".split())
"""What is asked about a tensor, not read from it."""
_SUMS = frozenset("add iadd sub isub".split())
_CONVOLUTIONS = {nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
_CONVOLUTIONS |= {nn.ConvTranspose1d: -2, nn.ConvTranspose2d: -3, nn.ConvTranspose3d: -4}
_KEEP = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Fate(Enum):
    """What becomes of an activation's result."""

    HIDDEN = "hidden"
    OUTPUT = "reaches the output"
    GATE = "multiplies another signal"
    UNSEEN = "goes where the data flow is not known"
    UNUSED = "is not used"


def fate(node: fx.Node, part: Part, model: nn.Module) -> tuple[Fate, str]:
    """What becomes of a node's value, and the module where the way is lost if it is `UNSEEN`.

    A value is followed through everything that has no weights (shapes, sums, pooling, dropout), and read by a layer
    when something with weights takes it. In a product of two signals, the one that the other is computed from is the
    signal; the other is a gate.

    Args:
        node: an activation in the graph of `part`.
        part: the part of the model.
        model: the module of that part.
    """
    below = set(_below(node))
    fates: dict[Fate, str] = {}
    seen, waiting = {node}, [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user in seen or _is_about(user):
                continue
            found, where = _at(user, value, node, below, part, model)
            if found is None:
                seen.add(user)
                waiting.append(user)
            else:
                fates.setdefault(found, where)
    for found in (Fate.OUTPUT, Fate.GATE, Fate.UNSEEN, Fate.HIDDEN):
        if found in fates:
            return found, fates[found]
    return Fate.UNUSED, ""


def _at(
    user: fx.Node, value: fx.Node, source: fx.Node, below: set[fx.Node], part: Part, model: nn.Module
) -> tuple[Fate | None, str]:
    """What a node does with the value; None: it passes it on."""
    if user.op == "output":
        return Fate.OUTPUT, ""
    if user.op == "call_module":
        name = str(user.target)
        if name in part.untraced:
            return Fate.UNSEEN, name
        reads = next(model.get_submodule(name).parameters(), None) is not None
        return (Fate.HIDDEN if reads else None), ""
    name = name_of(user)
    if name in _LAYERS:
        return Fate.HIDDEN, ""
    if name in _PRODUCTS:
        others = [other for other in user.all_input_nodes if other is not value]
        signals = [other for other in others if any(n.op == "placeholder" for n in _above(other))]
        if others and not signals:  # weights of the model itself
            return (Fate.HIDDEN if name in _CONTRACTIONS else None), ""
        if any(other is not source and other not in below for other in signals):
            return Fate.GATE, ""
    return None, ""


def name_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls, without the underscore of one that works in place."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    if node.op != "call_function":
        return ""
    if node.target is getattr:
        return str(node.args[1])
    return str(getattr(node.target, "__name__", node.target)).rstrip("_")


def _is_about(node: fx.Node) -> bool:
    return name_of(node) in _ABOUT


def _below(node: fx.Node) -> Iterator[fx.Node]:
    """All that is computed from a node."""
    return _reached(node, lambda n: [user for user in n.users if not _is_about(user)])


def _above(node: fx.Node) -> Iterator[fx.Node]:
    """A node and all that it is computed from."""
    yield node
    yield from _reached(node, lambda n: [] if _is_about(n) else n.all_input_nodes)


def _reached(node: fx.Node, nexts: Callable[[fx.Node], list[fx.Node]]) -> Iterator[fx.Node]:
    seen, waiting = {node}, [node]
    while waiting:
        for other in nexts(waiting.pop()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
                yield other


def features(part: Part, model: nn.Module) -> dict[fx.Node, tuple[int, int]]:
    """The number of features and their dimension, for every node whose producing layer says so for sure.

    After a Linear it is dimension -1; after a convolution -2, -3 or -4, for it also takes inputs without a batch;
    after a BatchNorm 1.
    """
    known: dict[fx.Node, tuple[int, int]] = {}
    for node in part.graph.nodes:
        found = None
        if node.op == "call_module" and str(node.target) not in part.untraced:
            module = model.get_submodule(str(node.target))
            found = features_of(module)
            if found is None and isinstance(module, (*_KEEP, *_INSTANCE_NORMS)):
                found = known.get(node.all_input_nodes[0]) if node.all_input_nodes else None
        elif name_of(node) == "dropout" and node.all_input_nodes:
            found = known.get(node.all_input_nodes[0])
        elif name_of(node) in _SUMS:
            each = {known.get(value) if isinstance(value, fx.Node) else "number" for value in node.args[:2]} - {"number"}
            found = each.pop() if len(each) == 1 else None  # type: ignore[assignment]
        if found is not None:
            known[node] = found
    return known


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """The number of features of a layer's output and their dimension, or None if the layer does not fix them."""
    if isinstance(module, nn.Linear | nn.Bilinear):
        return module.out_features, -1
    for kind, dim in _CONVOLUTIONS.items():
        if isinstance(module, kind):
            return module.out_channels, dim  # type: ignore[return-value]
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.num_features, 1
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1], -1
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, -1
    return None
