"""Where the constants of the cores can go: who gives a core its input, who reads its output, and what lies between.

A core is f * act(a x + b), with act a sigmoid or a tanh. Going back from each core, `Plan` asks the layer that gives x
to take in a and b; going forward, it asks the layers that read the output to take in f. It starts with everything
taken in and keeps, at its core, what somebody concerned cannot take, until nothing changes any more (docs/fold.md).
A centered core that is to be a sigmoid is f * (sigmoid(a x + b) - 1/2), and the layers behind take in the half, too.
"""

from collections import defaultdict
from collections.abc import Set

from torch import Tensor, fx, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding.commutation import (
    CONSUMERS,
    CONVOLUTIONS,
    NORMS,
    PRODUCERS,
    has_hooks,
    is_insensitive,
    output_axes,
    output_features,
    passage,
    takes_in_offset,
)
from sigmoidcore.folding.plain_layers import NOTHING, Affine, Lack, affine_of, weights_of_input
from sigmoidcore.nn.networks import RNN

Demand = tuple[SigmoidCore, bool]
"""Whose constants, and whether the offset is among them."""
Lacks = tuple[Lack, frozenset[nn.Module]]
"""What a value lacks until a layer takes it in, and whose it is."""


class Plan:
    """Which constants go where. It starts with all of them taken in, and keeps those for which that fails.

    Args:
        model: the model.
        graphs: every way through its forward.
        sigmoids: the centered cores that are to be sigmoids; the others are tanhs.
    """

    def __init__(self, model: nn.Module, graphs: list[fx.Graph], sigmoids: Set[SigmoidCore] = frozenset()) -> None:
        self.model = model
        self.graphs = graphs
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.names: dict[nn.Module, str] = {module: name for name, module in reversed(self.modules.items())}
        cores = [m for m in self.names if isinstance(m, SigmoidCore)]
        self.tanhs = {core for core in cores if core.centered and core not in sigmoids}
        halves = {core: 0.5 if core in self.tanhs else 1.0 for core in cores}  # sigmoid(z) - 1/2 = tanh(z/2)/2
        self.affine = {core: affine_of(core, self.names[core], half) for core, half in halves.items()}
        self.lack: dict[nn.Module, Lack] = {
            core: Lack(core.scale * half, 0.5 if core in sigmoids else 0.0) for core, half in halves.items()
        }
        self.lack |= {m: Lack(0.5) for m in self.names if isinstance(m, RNN)}
        self.pinned = _pinned(model, graphs, self.modules)
        self.kept_before: set[nn.Module] = {core for core in cores if self.affine[core].is_identity}
        self.kept_behind: set[nn.Module] = {m for m, lack in self.lack.items() if lack == NOTHING}
        self._solve()

    def keeps(self, core: SigmoidCore) -> bool:
        """Whether a constant stays at a core."""
        before = core in self.kept_before and not self.affine[core].is_identity
        return before or (core in self.kept_behind and self.lack[core] != NOTHING)

    def affine_behind(self, layer: nn.Module) -> tuple[Affine | None, bool]:
        """What a layer takes in for the core that it feeds, and whether with the offset."""
        demand = next(iter(self.outputs[layer]), None)
        return (self.affine[demand[0]], demand[1]) if demand else (None, False)

    def lack_before(self, layer: nn.Module) -> Lack:
        """What a layer takes in for the cores that it reads."""
        return next((lack for lack, _ in self.inputs[layer]), NOTHING)

    def _solve(self) -> None:
        self.named = {
            self.modules[str(n.target)] for g in self.graphs for n in g.nodes if n.op == "call_module" and n.kwargs
        }
        called = {self.modules[str(n.target)] for g in self.graphs for n in g.nodes if n.op == "call_module"}
        self.kept_before |= {core for core in self.affine if core not in called or has_hooks(core)}
        self.kept_behind |= {module for module in self.lack if module not in called or has_hooks(module)}
        kept = -1
        while kept != len(self.kept_before) + len(self.kept_behind):
            kept = len(self.kept_before) + len(self.kept_behind)
            self.outputs: dict[nn.Module, set[Demand | None]] = defaultdict(set)
            self.inputs: dict[nn.Module, set[Lacks]] = defaultdict(set)
            self.states: dict[nn.Module, dict[str, set[nn.Module]]] = defaultdict(dict)
            for graph in self.graphs:
                self._go_back(graph)
                self._go_forward(graph)
            self._agree()

    def _agree(self) -> None:
        """A layer that runs several times has one weight: everyone must ask the same of it."""
        for demands in self.outputs.values():
            if len(demands) > 1:
                self.kept_before |= {demand[0] for demand in demands if demand}
        for lacks in self.inputs.values():
            if len({lack for lack, _ in lacks}) > 1:
                self._keep(*lacks)
        for name in self.states.values():
            if "doubled" in name:
                self.kept_behind |= name.get("as it is", set())

    def _keep(self, *lacks: Lacks) -> None:
        for _, sources in lacks:
            self.kept_behind |= sources

    # --- slopes and shifts: from each core back to the layers that give its input -----------------------------------

    def _go_back(self, graph: fx.Graph) -> None:
        asked: dict[fx.Node, Demand | None] = {}
        for node in reversed(graph.nodes):
            demands = {self._demand(user, node, asked) for user in node.users if not is_insensitive(user)}
            demand = demands.pop() if len(demands) == 1 else None
            if demands:
                self.kept_before |= {d[0] for d in demands if d}
            asked[node] = demand
            layer = self._layer(node, PRODUCERS)
            if layer is not None:
                self.outputs[layer].add(demand)
            if demand is None:
                continue
            taken = self._takes_in(node, layer, demand) if layer is not None else self._passes(node, demand)
            if not taken:
                self.kept_before.add(demand[0])

    def _demand(self, user: fx.Node, node: fx.Node, asked: dict[fx.Node, Demand | None]) -> Demand | None:
        """What `user` asks of its input `node`."""
        core = self._module(user)
        if isinstance(core, SigmoidCore):
            return None if core in self.kept_before else (core, self.affine[core].has_offset)
        demand = asked[user]
        way = passage(user, self.modules) if demand is not None else None
        if demand is None or demand[0] in self.kept_before or way is None or node not in way.data:
            return None
        return (demand[0], demand[1] and not (way.adds and node is not way.data[0]))

    def _takes_in(self, node: fx.Node, layer: nn.Module, demand: Demand) -> bool:
        dim = self.affine[demand[0]].dim
        if dim is None:
            return True
        return (
            dim in output_axes(layer, self._reads_images(node))
            and output_features(layer, dim) == self.affine[demand[0]].gain.numel()
        )

    def _reads_images(self, node: fx.Node) -> bool:
        """Whether the input of a layer comes from a convolution, so that it has dimensions after the channels."""
        source = node.args[0] if node.args else None
        while isinstance(source, fx.Node):
            if type(self._module(source)) in CONVOLUTIONS:
                return True
            way = passage(source, self.modules)
            keeps = type(self._module(source)) in NORMS or (way is not None and way.axes != frozenset())
            source = source.args[0] if keeps and source.args else None
        return False

    def _passes(self, node: fx.Node, demand: Demand) -> bool:
        way = passage(node, self.modules)
        if way is None or (demand[1] and not way.offset) or len(node.all_input_nodes) != len(_all_inputs(node)):
            return False  # or an input is used twice, of which an offset could go into one use only
        dim = self.affine[demand[0]].dim
        if dim is None:
            return True
        return (way.axes is None or dim in way.axes) and not (way.adds and dim >= 0)  # the inputs' ranks may differ

    # --- factors and halves: from each core on to the layers that read its output -----------------------------------

    def _go_forward(self, graph: fx.Graph) -> None:
        lacks: dict[fx.Node, Lacks] = {}
        for node in graph.nodes:
            lacks[node] = self._lacks(node, lacks)

    def _lacks(self, node: fx.Node, lacks: dict[fx.Node, Lacks]) -> Lacks:
        """What the value of a node lacks."""
        if is_insensitive(node):
            return NOTHING, frozenset()
        module = self._module(node)
        layer = self._layer(node, CONSUMERS)
        data: tuple[fx.Node, ...] = ()
        result: Lacks = NOTHING, frozenset()
        if layer is not None:
            data = _nodes(node.args[: 2 if isinstance(layer, nn.Bilinear) else 1])
            self._read(layer, [lacks[n] for n in data], takes_in_offset(layer))
        elif isinstance(module, RNN):
            data = (*_nodes(node.args[:1]), *self._state(node, module, lacks))
            self._read(module, [lacks[n] for n in _nodes(node.args[:1])], False)
        elif (way := passage(node, self.modules)) is not None:
            data = way.data
            carried = [lacks[n] for n in data]
            each = {lack for lack, _ in carried}
            if len(each) == 1 and (carried[0][0].middle == 0 or (way.offset and not way.adds)):
                result = carried[0][0], frozenset().union(*(sources for _, sources in carried))
            else:
                self._keep(*carried)
        self._keep(*(lacks[n] for n in _others(node, data)))
        if module is not None and module in self.lack and module not in self.kept_behind:
            return self.lack[module], frozenset((module,))
        return result

    def _read(self, layer: nn.Module, lacks: list[Lacks], with_offset: bool) -> None:
        """Note what the inputs of a layer lack; a middle goes only where an offset goes."""
        if not with_offset:
            self._keep(*(each for each in lacks if each[0].middle))
        self.inputs[layer].add(_product(lacks))

    def _state(self, node: fx.Node, layer: RNN, lacks: dict[fx.Node, Lacks]) -> tuple[fx.Node, ...]:
        """Note how an initial state y arrives: nn.RNN wants 2 y, which is what lacks the factor 1/2."""
        state = node.kwargs.get("state", node.args[1] if len(node.args) > 1 else None)
        if state is None:
            self.states[layer].setdefault("none", set())
        elif isinstance(state, fx.Node) and lacks[state][0] == Lack(0.5):
            self.states[layer].setdefault("as it is", set()).update(lacks[state][1])
            return (state,)
        else:
            self.states[layer].setdefault("doubled", set())
        return ()

    # --- which module a node calls ----------------------------------------------------------------------------------

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _layer(self, node: fx.Node, kinds: set[type[nn.Module]]) -> nn.Module | None:
        """The layer that this node calls, if its weights are its own to change."""
        module = self._module(node)
        return module if module is not None and type(module) in kinds and module not in self.pinned else None


def _nodes(values: tuple[object, ...]) -> tuple[fx.Node, ...]:
    return tuple(value for value in values if isinstance(value, fx.Node))


def _all_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node, as often as they occur."""
    inputs: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), inputs.append)
    return inputs


def _others(node: fx.Node, data: tuple[fx.Node, ...]) -> list[fx.Node]:
    """The inputs of a node that are not its data; one that is both counts as another."""
    inputs = _all_inputs(node)
    for one in data:
        inputs.remove(one)
    return inputs


def _product(lacks: list[Lacks]) -> Lacks:
    factor, middle, sources = 1.0, 0.0, frozenset[nn.Module]()
    for lack, of in lacks:
        factor, middle, sources = factor * lack.factor, middle + lack.middle, sources | of
    return Lack(factor, middle), sources


def _pinned(model: nn.Module, graphs: list[fx.Graph], modules: dict[str, nn.Module]) -> set[nn.Module]:
    """The layers whose weights must stay: someone else reads them, or makes them, or may."""
    owners: dict[int, set[nn.Module]] = defaultdict(set)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[_place(parameter)].add(module)
    pinned = {module for shared in owners.values() if len(shared) > 1 for module in shared}
    for graph in graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                pinned.update(set(modules[str(node.target)].modules()) - {modules[str(node.target)]})
            elif node.op == "get_attr":
                owner = modules.get(str(node.target).rpartition(".")[0])
                if isinstance(owner, SigmoidCore | RNN):
                    raise ValueError(f"the forward reads '{node.target}', which a folded model has not: leave it out")
                tensor = getattr(owner, str(node.target).rpartition(".")[2], None)
                pinned.update(owners[_place(tensor)] if isinstance(tensor, Tensor) else ())
    return pinned | {m for m in model.modules() if type(m) in PRODUCERS | CONSUMERS and not _is_own(m)}


def _place(tensor: Tensor) -> int:
    """Where a tensor is in memory, which views and other parameters may share."""
    return tensor.data_ptr() or id(tensor)


def _is_own(layer: nn.Module) -> bool:
    """Whether a layer has weights, and nothing else runs with it, such as the hook that normalizes a weight."""
    weights = [layer._parameters.get(name) for name in weights_of_input(layer)]
    return bool(weights) and all(weight is not None for weight in weights) and not has_hooks(layer)
