"""What becomes of a value in a graph: is it read by layers, does it multiply a signal, does it reach the output?"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from torch import Tensor, fx, nn

from sigmoidcore.conversion.activations import called, function_of
from sigmoidcore.conversion.tracing import Part
from sigmoidcore.core import SigmoidCore


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# With a weight on the other side these are layers; an elementwise product with a weight only scales.
_CONTRACTIONS = _words("matmul imatmul mm bmm mv dot inner einsum tensordot addmm baddbmm")
_PRODUCTS = _CONTRACTIONS | _words(
    "mul imul multiply div truediv itruediv divide true_divide lerp addcmul addcdiv outer scaled_dot_product_attention"
)
_LAYERS = _words(
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding embedding_bag "
    "batch_norm layer_norm group_norm instance_norm rms_norm multi_head_attention_forward"
)
_METADATA = _words(  # what does not depend on the values of a tensor
    "size dim ndim numel nelement stride shape dtype device is_cuda requires_grad is_floating_point "
    "new_zeros new_ones new_empty new_full zeros_like ones_like empty_like"
)
_COMPARISONS = _words(
    "gt ge lt le eq ne greater greater_equal less less_equal round floor ceil trunc sign argmax argmin"
)
_ALIGNED = _words("add iadd sub isub mul imul div truediv neg")
_FEATURES: dict[type[nn.Module], tuple[str, int]] = {
    **dict.fromkeys((nn.Linear, nn.Bilinear), ("out_features", -1)),
    **{getattr(nn, f"{kind}{n}d"): ("out_channels", -1 - n) for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)},
    **{getattr(nn, f"InstanceNorm{n}d"): ("num_features", -1 - n) for n in (1, 2, 3)},
    **{nn.BatchNorm2d: ("num_features", -3), nn.BatchNorm3d: ("num_features", -4)},
    **dict.fromkeys((nn.BatchNorm1d, nn.SyncBatchNorm), ("num_features", 1)),  # also [batch, features]
    **{nn.GroupNorm: ("num_channels", 1), nn.Embedding: ("embedding_dim", -1)},
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm), ("normalized_shape", -1)),
}
_DROPOUT = (nn.Identity, *(getattr(nn, name) for name in nn.modules.dropout.__all__))
_POOLS = {  # with the dimensions after the channels
    getattr(nn, f"{kind}Pool{n}d"): n for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for n in (1, 2, 3)
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Role(Enum):
    """What becomes of an activation's result, as the reason to leave it; of several roles the first one counts."""

    OUTPUT = "its result reaches the model's output"
    GATE = "its result multiplies another signal"
    UNKNOWN = "its result goes where the data flow is not known"
    HIDDEN = ""  # layers read it
    COMPARED = "its result is compared or rounded, and no gradient comes back"
    UNUSED = "its result is not used"


def role_of(node: fx.Node, part: Part, model: nn.Module) -> tuple[Role, str]:
    """What becomes of a node's value; for `UNKNOWN`, also the untraceable module that takes it.

    In a product of two values, the one from which the other is computed is the signal; the other is a gate.
    """
    roles: dict[Role, str] = {}
    seen, waiting = {node}, [node]
    while waiting:
        value = waiting.pop()
        for user in value.users:
            if user in seen or reads_metadata(user):
                continue
            found, where = _role_at(user, value, node, part, model)
            if found is None:
                seen.add(user)
                waiting.append(user)
            else:
                roles.setdefault(found, where)
    return next(((role, roles[role]) for role in Role if role in roles), (Role.UNUSED, ""))


def _role_at(user: fx.Node, value: fx.Node, source: fx.Node, part: Part, model: nn.Module) -> tuple[Role | None, str]:
    """The role that a user of the value gives it; None if it passes the value on."""
    if user.op == "output":
        return Role.OUTPUT, ""
    if user.op == "call_module":
        name = str(user.target)
        if name in part.untraced:
            return Role.UNKNOWN, name
        module = model.get_submodule(name)
        weighs = not isinstance(module, nn.PReLU | SigmoidCore) and next(module.parameters(), None) is not None
        return (Role.HIDDEN if weighs else None), ""
    name = name_of(user)
    if name in _LAYERS:
        return Role.HIDDEN, ""
    if name in _COMPARISONS:
        return Role.COMPARED, ""
    if name in _PRODUCTS:
        others = [other for other in user.all_input_nodes if other is not value]
        signals = [other for other in others if any(n.op == "placeholder" for n in _ancestors(other))]
        if others and not signals:  # weights of the model itself
            return (Role.HIDDEN if name in _CONTRACTIONS else None), ""
        computed = _reached(source, lambda n: [reader for reader in n.users if not reads_metadata(reader)])
        if signals and not set(computed).issuperset(signals):
            return Role.GATE, ""
    return None, ""


def name_of(node: fx.Node) -> str:
    """What a node calls, without the underscore of in-place versions."""
    return called(node).rstrip("_")


def reads_metadata(node: fx.Node) -> bool:
    """Whether a node reads shapes and types of its inputs only, not values."""
    return name_of(node) in _METADATA


def _ancestors(node: fx.Node) -> Iterator[fx.Node]:
    """A node and all nodes that it is computed from."""
    return _reached(node, lambda n: [] if reads_metadata(n) else n.all_input_nodes)


def _reached(node: fx.Node, nexts: Callable[[fx.Node], list[fx.Node]]) -> Iterator[fx.Node]:
    """A node, and the nodes that are reached from it, the nearest first."""
    seen, waiting = {node}, deque([node])
    while waiting:
        at = waiting.popleft()
        yield at
        new = [other for other in nexts(at) if other not in seen]
        seen.update(new)
        waiting.extend(new)


def may_overwrite(node: fx.Node, model: nn.Module) -> bool:
    """Whether an in-place call may overwrite what something else reads: not what a layer or a sum made for it alone."""
    value = node
    while True:
        value, above = (value.all_input_nodes or [value])[0], value
        if value is above or set(value.users) != {above}:
            return True
        if value.op == "call_module":
            module = model.get_submodule(str(value.target))
            if features_of(module) is not None:
                return False
            if not isinstance(module, _DROPOUT):
                return True
        elif name_of(value) in ("add", "sub", "mul", "cat") and value.op == "call_function":
            return False
        elif name_of(value) not in ("iadd", "isub", "imul", "add", "sub", "mul"):
            return True


def nearest_weight(node: fx.Node, model: nn.Module) -> Tensor | None:
    """The nearest floating-point weight or buffer that a node depends on; it has the device and dtype of the value."""
    for above in _ancestors(node):
        tensors: Iterable[object] = ()
        if above.op == "call_module":
            module = model.get_submodule(str(above.target))
            tensors = () if isinstance(module, SigmoidCore) else (*module.parameters(), *module.buffers())
        elif above.op == "get_attr":
            owner, _, name = str(above.target).rpartition(".")
            tensors = (getattr(model.get_submodule(owner), name, None),)
        floating = next((t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()), None)
        if floating is not None:
            return floating
    return None


def features(part: Part, model: nn.Module) -> dict[fx.Node, tuple[int, int]]:
    """The number of features and their dimension, for every node whose layer fixes them."""
    known: dict[fx.Node, tuple[int, int]] = {}
    for node in part.graph.nodes:
        found = None
        if node.op == "call_module" and str(node.target) not in part.untraced:
            module = model.get_submodule(str(node.target))
            found = features_of(module)
            before = known.get(node.all_input_nodes[0]) if node.all_input_nodes else None
            if _keeps_features(module) or (before and found and isinstance(module, _NORMS) and before[0] == found[0]):
                found = before
            if found and any(isinstance(module, pool) and found[1] >= -n for pool, n in _POOLS.items()):
                found = None  # the pooled dimensions are the last ones
        elif (function_of(node) not in (None, "glu") or name_of(node) == "dropout") and node.all_input_nodes:
            found = known.get(node.all_input_nodes[0])
        elif name_of(node) in _ALIGNED:
            operands = [*node.args[:2], *(node.kwargs[name] for name in ("input", "other") if name in node.kwargs)]
            each = {known.get(value) if isinstance(value, fx.Node) else "number" for value in operands} - {"number"}
            found = each.pop() if len(each) == 1 else None  # type: ignore[assignment]
        if found is not None:
            known[node] = found
    return known


def _keeps_features(module: nn.Module) -> bool:
    """Whether a layer keeps the dimensions of its input and the number of features."""
    elementwise = type(module).__module__ == nn.modules.activation.__name__
    elementwise = elementwise and not isinstance(module, nn.GLU | nn.MultiheadAttention)
    return elementwise or isinstance(module, (SigmoidCore, *_DROPOUT, *_POOLS, *_INSTANCE_NORMS))


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """The number of features of a layer's output and their dimension, or None if the layer does not fix them."""
    for kind, (attribute, dim) in _FEATURES.items():
        if isinstance(module, kind):
            count = getattr(module, attribute)
            return count[-1] if isinstance(count, tuple) else int(count), dim
    return None
