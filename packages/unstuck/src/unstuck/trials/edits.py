"""The edits: what is different in a trial, and which rules a trial that learns proves.

To add one, `yield` it from a function of `EDITS`, which looks for what it changes in a recorded step.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import isnan, prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.statistics import HALVES, without_hidden
from unstuck.measure.views import moved
from unstuck.rules.pairs import product
from unstuck.step import Node, Step
from unstuck.step.replay import Instead
from unstuck.trials import replacements
from unstuck.trials.recording import Recording
from unstuck.wording import named

Call = Callable[..., Any]
Changes = Mapping[Node, Call]
"""Functions in the place of those of some calls; for an input, of its tensor."""

BENDS = ACTIVATIONS.keys() | calls.SOFTMAXES | calls.CLAMPS
ROOTS, LOGARITHMS = frozenset({"sqrt", "rsqrt", "pow", "reciprocal"}), frozenset({"log", "log2", "log10"})
MAY_DIE = frozenset({"relu", "relu6", "hardtanh", "threshold", "hardsigmoid"})
CLIPPED = 0.1
"""Share of the gradients that is left of them."""
GENERAL = 2.0
"""Weight of edits that help most trainings."""
NOTHING = 0.01
"""Share of the loss that is as good as nothing."""
MOST = 4
"""Calls of one kind that are edited one by one, at most."""


@dataclass(frozen=True)
class Edit:
    """One difference from the recorded training.

    Attributes:
        words: it, as in "without `softmax` in `head`".
        changes: calls of a recorded step that are replaced.
        instead: calls of a recorded step whose results are read in the place of those of others.
        proves: the rules whose findings are proved if it learns with this edit.
        options: new values in the groups of the optimizers.
        rate: factor of the learning rates.
        adam: Adam at its usual rate is the optimizer.
        redraws: the weights are drawn again.
        joins: names of parameters that train, too, in the group with the largest rate.
        strays_join: weights that are not parameters of the model train, too.
        clears: gradients are cleared before every step; None: as they were.
        unclipped: the optimizers see the whole gradients of the backward passes.
        single: weights of half precision are kept in float32.
        reveals: the training learns what it should not see, and does not without it.
        loss: if it is another one than the recorded loss, with which its values cannot be compared; the step may ask
            for it, else it may be an easier one.
        weight: factor of what it leaves of the loss: more for what helps most trainings.
    """

    words: str
    changes: Callable[[Step], Changes] = field(default=lambda step: {})
    proves: str = ""
    instead: Callable[[Step], Instead] = field(default=lambda step: {})
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    adam: bool = False
    redraws: bool = False
    joins: Collection[str] = ()
    strays_join: bool = False
    clears: bool | None = None
    unclipped: bool = False
    single: bool = False
    reveals: bool = False
    loss: Literal["", "asked for", "easier"] = ""
    weight: float = 1.0

    def rank(self, left: float) -> tuple[bool, float]:
        """The smaller, the more it says that a trial leaves this share of the loss; an easier loss says least."""
        return self.loss == "easier", self.weight * max(left, NOTHING)


# What the edits ask a recorded step.


def computed(step: Step) -> set[Node]:
    """The nodes that depend on a parameter."""
    found = {node for node in step.nodes if node.op == "parameter"}
    for node in step.calls():
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def code(node: Node) -> tuple[Any, ...]:
    """What a call has in common with itself in other steps."""
    return node.function, node.module, node.place


def grouped(nodes: Iterable[Node]) -> list[list[Node]]:
    """Calls of the same code together, the first `MOST`."""
    found: dict[tuple[Any, ...], list[Node]] = {}
    for node in nodes:
        found.setdefault(code(node), []).append(node)
    return list(found.values())[:MOST]


def place(node: Node) -> str:
    """A call in words: its name, and where it is."""
    where = named(node.module) if node.module else node.line
    return _("`{call}` in {where}", call=node.function, where=where) if where else f"`{node.function}`"


def is_stray(node: Node) -> bool:
    """Whether a node is a weight that trains and is not a parameter of the model."""
    return node.op == "constant" and node.value is not None and node.value.requires_grad and node.value.is_leaf


@dataclass(frozen=True)
class Compared:
    """A call that compares outputs with targets: a loss function, or a difference."""

    call: Node
    outputs: Node
    targets: Node
    swapped: bool  # the targets come first


def comparisons(step: Step, functions: Iterable[str]) -> Iterator[Compared]:
    """The calls of these functions that compare something computed with data."""
    depends = computed(step)
    for node in step.of_loss(*functions):
        pair = node.all_input_nodes[0:3:2] if node.function in calls.OF_TWO else node.all_input_nodes[:2]
        trained = [n.requires_grad for n in pair]  # targets of a Bellman equation are computed, too
        if len(set(trained)) < 2:
            trained = [n in depends for n in pair]
        if len(set(trained)) == 2:
            swapped = trained[1]
            yield Compared(node, pair[swapped], pair[not swapped], swapped)


def replacing(nodes: Iterable[Node], change: Call) -> Callable[[Step], Changes]:
    """Changes of these calls, and of the same code in other steps."""
    known = {code(node) for node in nodes}
    return lambda step: {n: partial(change, n) for n in step.needed() if n.function and code(n) in known}


def with_targets(compared: Compared, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Step], Changes]:
    """Changes of a comparison that gets other targets: a function of outputs and targets."""

    def call(node: Node, *args: Any, **kwargs: Any) -> Any:
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        one, other, *_rest = [name for name, value in given.items() if isinstance(value, Tensor)]
        outputs, targets = (other, one) if compared.swapped else (one, other)
        given[targets] = change(given[outputs], given[targets])
        return node.target(*(given[i] for i in range(len(args))), **{name: given[name] for name in kwargs})

    return replacing([compared.call], call)


def unused(step: Step) -> dict[Node, Node]:
    """Results that nothing reads, each with the result of the same shape that it comes from and later calls read."""
    found, order = {}, {node: i for i, node in enumerate(step.nodes)}
    needed = set(step.needed())
    for node in step.calls():
        if node.users or node in needed or not (node.requires_grad and node.module is not None):
            continue
        sources = (n for n in reversed(step.needed([node])) if n in needed and n.floating and n.shape == node.shape)
        later = (n for n in sources if any(order[user] > order[node] and user in needed for user in n.users))
        if (old := next(later, None)) is not None:
            found[node] = old
    return found


# The table.


def of_the_loss(step: Step, recording: Recording) -> Iterator[Edit]:
    """Another input of the loss, arguments in order, and the loss that fits the outputs."""
    for c in comparisons(step, calls.LOSSES | calls.DIFFERENCES):
        name, where = c.call.function, place(c.call)
        last = c.outputs.through(calls.MOVES | calls.CLAMPS | {"log", "add", "mul"})
        if last.function in BENDS and name not in ("binary_cross_entropy", "nll_loss"):
            yield Edit(
                _("without {call}", call=place(last)), replacing([last], replacements.left_out), "US601 US603 US401"
            )
        if name not in calls.LOSSES - calls.REGRESSION_LOSSES:
            continue
        if c.swapped:
            words = _("with the outputs first and the targets second in {call}", call=where)
            change = lambda node, x, y, *args, **kwargs: node.target(y, x, *args, **kwargs)  # noqa: E731
            yield Edit(words, replacing([c.call], change), "US601", loss="asked for")
        if name in calls.CLASSES and not c.swapped:
            words = _("with logarithms of probabilities in {call}", call=where)
            change = partial(replacements.with_logarithms, calls.CLASSES[name])
            raw = c.outputs.through(calls.MOVES).function not in ("log_softmax", "log", "logsigmoid")
            yield Edit(words, replacing([c.call], change), "US601", loss="asked for" if raw else "easier")
        elif name in ("cross_entropy", "binary_cross_entropy") and c.outputs.shape == c.targets.shape:
            words = _("with `{better}` for {call}", better="binary_cross_entropy_with_logits", call=where)
            last = c.outputs.through(calls.MOVES)
            without = replacing([last] if last.function in BENDS else [], replacements.left_out)
            loss = replacing([c.call], replacements.with_logits)
            both = lambda step, a=without, b=loss: {**a(step), **b(step)}  # noqa: E731
            dim = calls.softmax_dim(last) if last.function == "softmax" else 1  # of the classes
            alone = c.outputs.shape[dim : dim + 1] == (1,) and (last.function == "softmax" or name == "cross_entropy")
            yield Edit(words, both, "US601", loss="asked for" if alone else "easier")


def of_the_targets(step: Step, recording: Recording) -> Iterator[Edit]:
    """Targets of the shape of the outputs, or scaled."""
    for c in comparisons(step, calls.COMPARISONS | calls.BINARY_LOSSES):
        where = place(c.call)
        if c.outputs.shape != c.targets.shape and prod(c.outputs.shape) == prod(c.targets.shape):
            words = _("with targets of the shape {shape} in {call}", shape=list(c.outputs.shape), call=where)
            yield Edit(words, with_targets(c, lambda x, y: y.reshape(x.shape)), "US602", loss="asked for")
        if c.targets.floating and c.outputs.shape == c.targets.shape:
            if c.call.function in calls.COMPARISONS:
                words = _("with standardised targets in {call}", call=where)
                change = with_targets(c, lambda _x, y: replacements.standardised(y))
                yield Edit(words, change, "US603 US604", loss="easier")
            words = _("with targets between 0 and 1 in {call}", call=where)
            last = c.outputs.through(calls.MOVES).function
            bounded = c.call.function in calls.BINARY_LOSSES or last in ("sigmoid", "softmax")
            missed = bounded and (given := c.targets.through(calls.MOVES).value) is not None and bool(given.max() > 1)
            change = with_targets(c, lambda _x, y: replacements.between_0_and_1(y))
            yield Edit(words, change, "US603 US604", loss="asked for" if missed else "easier")


def of_data_in_the_loss(step: Step, recording: Recording) -> Iterator[Edit]:
    """Numbers between 0 and 1 where a loss by hand reads others, which the network may read, too."""

    def changes(step: Step) -> Changes:
        known = {c.targets.through(calls.MOVES) for c in comparisons(step, calls.COMPARISONS | calls.BINARY_LOSSES)}
        read = (x.through(calls.MOVES) for n in step.needed() if n.module is None and n.requires_grad for x in n.reads)
        large = (n for n in read if n not in known and n.floating and n.value is not None and n.value.max() > 1)
        return dict.fromkeys(large, replacements.between_0_and_1)

    if changes(step):
        fits: Literal["asked for", "easier"] = "asked for" if step.of_loss(*LOGARITHMS) else "easier"
        yield Edit(_("with data between 0 and 1 in the loss"), changes, "US603 US604 US206", loss=fits)


def of_the_domain(step: Step, recording: Recording) -> Iterator[Edit]:
    """Arguments inside of the domain of a function, or no logarithm."""
    for nodes in grouped(n for n in step.of_loss(*ROOTS, *LOGARITHMS, *replacements.QUOTIENTS) if n.floating):
        words = _("with arguments of at least {least} in {call}", least=replacements.LEAST, call=place(nodes[0]))
        yield Edit(words, replacing(nodes, replacements.away_from_0), "US401")
        if nodes[0].function in LOGARITHMS:
            words = _("without {call}", call=place(nodes[0]))
            yield Edit(words, replacing(nodes, replacements.left_out), "US401 US601", loss="easier")


def of_the_inputs(step: Step, recording: Recording) -> Iterator[Edit]:
    """Inputs with mean 0 and standard deviation 1, larger ones for sines, and tokens that have positions."""

    def changes(step: Step) -> Changes:
        given = (n for n in step.needed() if n.op == "input" and len(n.shape) > 1 and n.floating)
        return dict.fromkeys(given, replacements.standardised)

    if changes(step):
        yield Edit(_("with standardised inputs"), changes, "US206 US401")
        if step.of_loss("sin", "cos"):
            larger = lambda step: dict.fromkeys(changes(step), lambda x: 10 * x)  # noqa: E731
            yield Edit(_("with inputs that are {factor} times larger", factor=10), larger, "US101 US203")
    if attention := step.of_loss(calls.DOT_PRODUCT, calls.ATTENTION):
        words = _("with positions in {call}", call=place(attention[0]))
        yield Edit(words, replacing(attention[:1], replacements.with_positions))


def of_numbers(step: Step, recording: Recording) -> Iterator[Edit]:
    """Data that are finite, scores that no mask hides, and single precision."""

    def finite(step: Step) -> Changes:
        data = ((n, n.value) for n in step.needed() if n.floating)
        wrong = (n for n, x in data if x is not None and not without_hidden(x).isfinite().all())
        return dict.fromkeys(wrong, lambda x: x.nan_to_num(0.0, 0.0, 0.0))

    def single(step: Step) -> Changes:
        known = [n for n in step.needed() if replacements.is_half(n)]
        return {n: partial(replacements.in_single, n) if n.function else replacements.single for n in known}

    if finite(step):
        yield Edit(_("with 0 for data that are not finite"), finite, "US401")
    lost = isnan(recording.last)  # else scores without their mask see what they should not, and learn it
    for nodes in grouped(step.of_loss("masked_fill")) if lost else ():
        yield Edit(_("without {call}", call=place(nodes[0])), replacing(nodes, replacements.left_out), "US401")
    if single(step) or any(value.dtype in HALVES for value in recording.values.values()):
        yield Edit(_("in single precision"), single, "US401", single=True)


def of_the_graph(step: Step, recording: Recording) -> Iterator[Edit]:
    """Without what cuts the graph, such as detach and no_grad, and without functions of slope 0."""
    depends = computed(step)
    for nodes in grouped(n for n in step.of_loss("detach", "data") if n in depends):
        yield Edit(_("without {call}", call=place(nodes[0])), replacing(nodes, replacements.left_out), "US501")
    silent = [n for n in step.needed() if n.function and not n.grad_enabled and n in depends]
    if silent:
        words = _("with gradients through {call}", call=place(silent[0]))
        yield Edit(words, replacing(silent, replacements.with_gradients), "US501")
    for nodes in grouped(step.of_loss(*calls.ROUNDINGS)):
        yield Edit(_("without {call}", call=place(nodes[0])), replacing(nodes, replacements.left_out), "US502")
    for nodes in grouped(unused(step)):
        known = code(nodes[0])
        instead = lambda step, known=known: {n: old for n, old in unused(step).items() if code(n) == known}  # noqa: E731
        words = _("with what {call} makes, which nothing reads", call=place(nodes[0]))
        yield Edit(words, proves="US501", instead=instead)


def of_the_optimizer(step: Step, recording: Recording) -> Iterator[Edit]:
    """Other weights, options and rates; gradients that are cleared; Adam."""
    trained = {name for name in recording.parameters if recording.values[name].requires_grad}
    if free := trained - recording.held:
        yield Edit(_("with the parameters in the optimizer that are in none"), proves="US303", joins=free)
    if (moving := trained & recording.held) and recording.parameters - moving:
        words = _("with all parameters in the optimizer")
        yield Edit(words, proves="US303 US505", joins=recording.parameters, weight=GENERAL)
    if any(map(is_stray, step.needed())):
        words = _("with the weights that are not the model's in the optimizer")
        yield Edit(words, proves="US303 US504", strays_join=True)
    yield Edit(_("with cleared gradients"), proves="US305", clears=True)
    if any(group.get("weight_decay") for one in recording.optimizers for group in one.groups):
        yield Edit(_("without weight decay"), proves="US307", options={"weight_decay": 0.0})
    if min(recording.taken, default=1.0) < CLIPPED:
        yield Edit(_("with the gradients of the backward passes"), proves="US301 US306", unclipped=True)
    for factor in (10, 100):
        words = _("with {factor} times the learning rate", factor=factor)
        yield Edit(words, proves="US301", rate=float(factor), weight=GENERAL)
        if factor == 10:
            yield Edit(_("with Adam at a rate of 0.001"), proves="US301 US302", adam=True, weight=GENERAL)
    for factor in (10, 100):
        words = _("with a learning rate {factor} times smaller", factor=factor)
        yield Edit(words, proves="US302 US102 US201 US202 US401 US607", rate=1 / factor, weight=GENERAL)


def of_the_weights(step: Step, recording: Recording) -> Iterator[Edit]:
    """Weights that keep the size of signal and gradient; with tanh where sigmoids are between layers."""
    proves = "US101 US102 US103 US201 US202 US203 US204 US401 US502 US503 US607"
    yield Edit(_("with fresh weights"), proves=proves, redraws=True)
    hidden = [node for node in step.of_loss("sigmoid") if node.module is not None][:-1]
    if hidden:
        words = _("with tanh for sigmoid, and fresh weights")
        yield Edit(words, replacing(hidden, lambda node, x: torch.tanh(x)), proves, redraws=True)


def of_the_layers(step: Step, recording: Recording) -> Iterator[Edit]:
    """Units that do not die, other norms, no dropout, and more activations."""
    if nodes := step.of_loss(*MAY_DIE):
        words = _("with `leaky_relu` for {call}", call=f"`{nodes[0].function}`")
        change = lambda node, x, *args, **kwargs: functional.leaky_relu(x, 0.1)  # noqa: E731
        yield Edit(words, replacing(nodes, change), "US202 US502")
        if step.of_loss("grad"):
            words = _("with `tanh` for {call}", call=f"`{nodes[0].function}`")
            yield Edit(words, replacing(nodes, lambda node, x, *args, **kwargs: torch.tanh(x)), "US502")
    if nodes := step.of_loss("batch_norm"):
        yield Edit(_("without batch normalisation"), replacing(nodes, replacements.left_out), "US509")
    for nodes in grouped(n for n in step.of_loss(*calls.NORMS - {"batch_norm"}) if replacements.leaves_nothing(n)):
        yield Edit(_("without {call}", call=place(nodes[0])), replacing(nodes, replacements.left_out), "US509 US203")
    if nodes := step.of_loss("dropout", "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d"):
        yield Edit(_("without dropout"), replacing(nodes, replacements.left_out), "US510")
    if hidden := step.of_loss("linear", *calls.CONVOLUTIONS)[:-1]:
        change = lambda node, *args, **kwargs: functional.relu(node.target(*args, **kwargs))  # noqa: E731
        yield Edit(_("with a relu after each hidden layer"), replacing(hidden, change), "US507", weight=GENERAL)


def of_the_terms(step: Step, recording: Recording) -> Iterator[Edit]:
    """Without one of the two last terms of the loss."""
    depends = computed(step)
    for node in [n for n in step.of_loss(*calls.ADDITIONS) if n.shape == () and n in depends][-1:]:
        compared = {c.call for c in comparisons(step, calls.LOSSES | calls.DIFFERENCES)}
        comparing = {read for read in node.all_input_nodes if not compared.isdisjoint(step.needed([read]))}
        for i, read in enumerate(node.all_input_nodes[:2]):
            term = read.through(calls.MOVES | calls.MULTIPLICATIONS | replacements.QUOTIENTS)
            words = _("without the term {call} of the loss", call=place(term))
            change = replacing([node], lambda node, *args, i=i: args[1 - i])
            drowns = read not in comparing or comparing.issuperset(node.all_input_nodes)
            yield Edit(words, change, "US609" if drowns else "", loss="easier")


def of_the_axes(step: Step, recording: Recording) -> Iterator[Edit]:
    """Views that move the numbers, and a softmax over the last dimension."""
    for nodes in grouped(n for n in step.of_loss("view", "reshape") if n.floating):
        if (move := moved(nodes[0].reads[0].shape, nodes[0].shape)) is not None:
            words = _("with axes that are moved before {call}", call=place(nodes[0]))
            yield Edit(words, replacing(nodes, lambda node, x, *args, move=move, **kwargs: move(x)), "US506")
    for nodes in filter(None, (step.of_loss(*of) for of in (calls.RECURRENT, [calls.ATTENTION]))):
        words = _("with samples first in {call}", call=place(nodes[0]))
        yield Edit(words, replacing(nodes, replacements.with_samples_first), "US506")
    for nodes in grouped(n for n in step.of_loss("softmax", "log_softmax") if len(n.shape) > 1):
        if calls.softmax_dim(nodes[0]) != len(nodes[0].shape) - 1:
            change = lambda node, x, *args, **kwargs: getattr(torch, node.function)(x, -1)  # noqa: E731
            words = _("with {call} over the last dimension", call=place(nodes[0]))
            yield Edit(words, replacing(nodes, change), "US506", loss="easier")


def of_the_pairs(step: Step, recording: Recording) -> Iterator[Edit]:
    """Another scale of similarities, and other positives, for a loss of all pairs."""
    for nodes in grouped(n for n in step.of_loss("cross_entropy") if product(n.reads[0]) is not None):
        own = step.needed([nodes[0].reads[0]])
        if not any(n.function in ("normalize", "norm", "cosine_similarity", "vector_norm") for n in own):
            continue
        for factor in (100, 10, 0.1, 0.01):
            words = _("with similarities times {factor} in {call}", factor=factor, call=place(nodes[0]))
            scaled = lambda node, x, *args, f=factor, **kwargs: node.target(x * f, *args, **kwargs)  # noqa: E731
            yield Edit(words, replacing(nodes, scaled), "US709", loss="easier")
        for words, order in (
            (_("with views in two halves"), replacements.halves),
            (_("with views side by side"), replacements.neighbours),
        ):

            def change(node: Node, x: Tensor, y: Tensor, *args: Any, order: Call = order, **kwargs: Any) -> Any:
                rows = torch.arange(len(x), device=x.device)
                hidden = x.masked_fill(rows[:, None] == rows, -torch.inf)
                return node.target(hidden, order(rows), *args, **kwargs)

            yield Edit(words, replacing(nodes, change), "US708")


def of_the_tokens(step: Step, recording: Recording) -> Iterator[Edit]:
    """Later tokens that are hidden, and labels that are one token later: a training that knew them learns no more."""
    attention = [
        n for n in step.of_loss(calls.DOT_PRODUCT, calls.ATTENTION, "softmax") if replacements.scores(n) is not None
    ]
    if attention:
        yield Edit(_("with later tokens hidden"), replacing(attention, replacements.causal), "US606", reveals=True)
    shapes = {n.reads[0].shape for n in step.of_loss("embedding") if n.reads and len(n.reads[0].shape) == 2}
    for nodes in grouped(step.of_loss("cross_entropy")):
        for shape in (shape for shape in shapes if prod(shape) == prod(nodes[0].reads[1].shape)):
            later, unpadded = partial(replacements.one_later, shape), partial(replacements.without_padding, shape)
            words = _("with labels that are one token later")
            yield Edit(words, replacing(nodes, later), "US606", reveals=True)
            yield Edit(_("without labels of padding"), replacing(nodes, unpadded), "US702", reveals=True)


EDITS = (
    of_the_loss, of_the_targets, of_data_in_the_loss, of_the_domain, of_the_inputs, of_numbers, of_the_graph,
    of_the_optimizer, of_the_weights, of_the_layers, of_the_terms, of_the_axes, of_the_pairs, of_the_tokens,
)  # fmt: skip
"""The functions that look for edits, in the order in which they are tried."""


def edits(recording: Recording) -> Iterator[Edit]:
    """The edits that fit the last recorded step."""
    known = set()
    for maker in EDITS:
        with suppress(Exception):  # a step in which it does not find its way
            for edit in maker(recording.steps[-1], recording):
                if edit.words not in known:  # the same code may run often
                    known.add(edit.words)
                    yield edit
