"""What the autograd graph of a loss shows: values that a policy's gradient moves."""

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node

MOST_NODES, MOST_MOVES = 256, 8
MOVES = frozenset(
    f"{name}Backward0"
    for name in (
        *("View", "ReshapeAlias", "UnsafeView", "T", "Transpose", "Permute", "Unsqueeze", "Expand", "Slice", "Select"),
        *("ToCopy", "Clone", "Alias", "SplitWithSizes", "Split", "Squeeze"),
    )
) | {"SqueezeBackward1", "SqueezeBackward2"}
"""Nodes that move numbers."""
LAYERS = frozenset({"AddmmBackward0", "MmBackward0", "ConvolutionBackward0", "LinearBackward0"})
SUMS = frozenset({"AddBackward0", "SubBackward0", "RsubBackward0"})
TERMS = SUMS | {"NegBackward0", "MeanBackward0", "MeanBackward1", "SumBackward0", "SumBackward1", "StackBackward0"}
PASSED = SUMS | {"NegBackward0", "MeanBackward1", "SumBackward1"}
"""Nodes between an advantage and the data and outputs from which it is computed."""
CHOICES = frozenset({"GatherBackward0", "IndexBackward0"})
LOGS = frozenset({"LogBackward0", "LogSoftmaxBackward0", "LogsumexpBackward0"})
LIKELIHOODS = frozenset({"NllLossBackward0", "BinaryCrossEntropyWithLogitsBackward0"})
LIKELIHOOD = MOVES | CHOICES | {"LogBackward0", "ClampBackward1", "AddBackward0", "SubBackward0"}
LIKELIHOOD |= {"NegBackward0", "SumBackward1", "DivBackward0"}
"""Nodes on the way from the log-probability of an action to the outputs."""


def moves_its_value(loss: Tensor) -> bool:
    """Whether a term of a loss is a log-probability times data minus an output, and both have a gradient."""
    for node in _terms(loss.grad_fn):
        factors = _before(node) if node.name() == "MulBackward0" else []
        if len(factors) == 2 and any(
            _is_log_probability(one) and _is_advantage(other) for one, other in (factors, factors[::-1])
        ):
            return True
    return False


def _terms(node: Node | None) -> Iterator[Node]:
    """The nodes that a loss adds up, from the loss on."""
    waiting = [node]
    for _time in range(MOST_NODES):
        node = waiting.pop() if waiting else None
        if node is None:
            return
        yield node
        scaled = node.name() in ("MulBackward0", "DivBackward0") and len(_before(node)) == 1
        if scaled or node.name() in TERMS | MOVES:
            waiting += _before(node)


def _before(node: Node) -> list[Node]:
    """The nodes that a node reads."""
    return [before for before, _place in node.next_functions if before is not None]


def _moved(node: Node | None) -> Node | None:
    """The first node on the way back that does more than moving numbers."""
    for _time in range(MOST_MOVES):
        if node is None or node.name() not in MOVES:
            return node
        node = next(iter(_before(node)), None)
    return node


def _is_log_probability(node: Node) -> bool:
    """Whether a node is the log-probability of an action: of a class that was chosen, or of a normal distribution."""
    passed: set[str] = set()
    current: Node | None = node
    for _time in range(2 * MOST_MOVES):
        if current is None:
            break
        name = "LogsumexpBackward0" if _subtracts_sum(current) else current.name()
        passed.add(name)
        if name not in LIKELIHOOD:
            break
        current = next(iter(_before(current)), None)
    gaussian = {"DivBackward0", "PowBackward0"} <= passed
    return gaussian or not passed.isdisjoint(LIKELIHOODS) or not (passed.isdisjoint(CHOICES) or passed.isdisjoint(LOGS))


def _subtracts_sum(node: Node) -> bool:
    """Whether a node subtracts the logarithm of a sum of exponentials, as `Categorical` does."""
    return any(before.name() == "LogsumexpBackward0" for before in _before(node))


def _is_advantage(node: Node) -> bool:
    """Whether a node is a sum of data and of outputs of layers, which a number may scale."""
    data = outputs = False
    waiting: list[Node | None] = [node]
    for _time in range(MOST_MOVES):
        if not waiting:
            break
        current = _moved(waiting.pop())
        if current is None:
            continue
        name, behind = current.name(), [before for before, _place in current.next_functions]
        if name in LAYERS:
            outputs = True
        elif name in PASSED or (name == "MulBackward0" and None in behind):
            data |= name in SUMS and None in behind
            waiting += behind
        else:
            return False
    return data and outputs and not waiting
