"""A recorded step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import fx

from unstuck.step.node import Node, mapped, reached


@dataclass(eq=False)
class Step:
    """The calls of one training step, from the model's inputs to the losses whose `backward()` was called.

    Attributes:
        nodes: placeholders and calls, in the order in which they ran.
        before: those of networks that ran without a gradient before the first forward pass, such as a teacher.
        outputs: what the model returned, of each forward pass.
        unread: names of the model's inputs that no call has read.
        losses: the nodes whose `backward()` was called.
        values: what each loss was.
        unfollowed: why the step cannot be repeated as it was; empty if it can.
        training: whether a model ran in training mode.
    """

    nodes: list[Node] = field(default_factory=list)
    before: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    unread: dict[str, None] = field(default_factory=dict)
    losses: list[Node] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    unfollowed: dict[str, None] = field(default_factory=dict)
    training: bool = False

    def calls(self, *functions: str) -> Iterator[Node]:
        """The calls of these functions, in order; of all functions without a name."""
        return (n for n in self.nodes if n.op == "call_function" and (not functions or n.function in functions))

    def of_loss(self, *functions: str) -> list[Node]:
        """The calls of these functions that the losses depend on, in order."""
        return [node for node in self.needed() if node.function in functions]

    def placeholders(self, kind: str) -> Iterator[Node]:
        """The placeholders of a kind: "parameter", "buffer", "input" or "constant"."""
        return (node for node in self.nodes if node.op == kind)

    @property
    def loss(self) -> float | None:
        """The sum of the losses; None without any."""
        return sum(float(value) for value in self.values) if self.values else None

    def needed(self, ends: Iterable[Node] | None = None) -> list[Node]:
        """The nodes that some nodes depend on, by default the losses, in the order in which they ran."""
        found = set(reached(self.losses if ends is None else ends, lambda node: node.reads))
        return [node for node in (*self.before, *self.nodes) if node in found]

    def trim(self, most: int) -> None:
        """Forget what ran before the first forward pass and made nothing that the step reads; or all, if it is larger.

        Args:
            most: bytes that the rest may read.
        """
        found = set(reached(self.nodes, lambda node: node.sources))
        if sum(node.value.nbytes for node in self.before if node in found and node.value is not None) > most:
            found = set(self.nodes)
            for node in self.nodes:
                node.made_by = None
        for node in self.before:
            node.users = {user: None for user in node.users if user in found}
            node.value = node.value if node in found else None
        self.before = [node for node in self.before if node in found]

    def release(self) -> None:
        """Drop the tensors, and the users: nodes that refer to each other are collected late."""
        for node in (*self.before, *self.nodes):
            node.value = None
            node.users.clear()

    def graph(self) -> fx.Graph:
        """The step as a graph of PyTorch, whose result is the tuple of the losses: to be printed, looked at, run."""
        graph, made = fx.Graph(), dict[Node, fx.Node]()
        for i, node in enumerate(self.needed()):
            if node.op == "call_function":
                args, kwargs = (mapped(values, Node, made.__getitem__) for values in (node.args, dict(node.kwargs)))
                made[node] = graph.call_function(node.target, args, kwargs)
            else:
                made[node] = graph.placeholder(f"{node.op}_{i}")
            made[node].meta.update(module=node.module, place=node.place, shape=node.shape, dtype=node.dtype, node=node)
        graph.output(tuple(made[loss] for loss in self.losses))
        return graph
