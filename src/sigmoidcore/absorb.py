"""Where the constants of the cores can go: who gives a core its input, who reads its output, and what lies between.

A core is f * act(a x + b), with act a sigmoid or a tanh. Going back from each core, `Plan` asks the layer that gives x
to take in a and b; going forward, it asks the layers that read the output to take in f. It starts with everything
taken in and keeps, at its core, what somebody concerned cannot take, until nothing changes any more (docs/fold.md).
"""

from collections import defaultdict

from torch import Tensor, fx, nn

from sigmoidcore.commute import (
    CONSUMERS,
    CONVOLUTIONS,
    NORMS,
    PRODUCERS,
    has_hooks,
    is_insensitive,
    output_axes,
    output_features,
    passage,
)
from sigmoidcore.core import SigmoidCore
from sigmoidcore.networks import RNN
from sigmoidcore.plain import Affine, affine_of, weights_of_input

Demand = tuple[SigmoidCore, bool]
"""Whose constants, and whether the offset is among them."""
Factor = tuple[float, frozenset[nn.Module]]
"""What a value lacks until a layer takes it in, and whose it is."""
NOTHING: Factor = (1.0, frozenset())


class Plan:
    """Which constants go where. It starts with all of them taken in, and keeps those for which that fails."""

    def __init__(self, model: nn.Module, graphs: list[fx.Graph]) -> None:
        self.model = model
        self.graphs = graphs
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.names: dict[nn.Module, str] = {module: name for name, module in reversed(self.modules.items())}
        cores = [m for m in self.names if isinstance(m, SigmoidCore)]
        self.affine = {core: affine_of(core, self.names[core]) for core in cores}
        self.factor: dict[nn.Module, float] = {core: core.scale * (0.5 if core.centered else 1.0) for core in cores}
        self.factor |= {m: 0.5 for m in self.names if isinstance(m, RNN)}
        self.pinned = _pinned(model, graphs, self.modules)
        self.kept_before: set[nn.Module] = {core for core in cores if self.affine[core].is_identity}
        self.kept_behind: set[nn.Module] = {m for m, factor in self.factor.items() if factor == 1}
        self._solve()

    def affine_behind(self, layer: nn.Module) -> tuple[Affine | None, bool]:
        """What a layer takes in for the core that it feeds, and whether with the offset."""
        demand = next(iter(self.outputs[layer]), None)
        return (self.affine[demand[0]], demand[1]) if demand else (None, False)

    def factor_before(self, layer: nn.Module) -> float:
        """What a layer takes in for the cores that it reads."""
        return next((value for value, _ in self.inputs[layer]), 1.0)

    def _solve(self) -> None:
        self.named = {
            self.modules[str(n.target)] for g in self.graphs for n in g.nodes if n.op == "call_module" and n.kwargs
        }
        called = {self.modules[str(n.target)] for g in self.graphs for n in g.nodes if n.op == "call_module"}
        self.kept_before |= {core for core in self.affine if core not in called or has_hooks(core)}
        self.kept_behind |= {module for module in self.factor if module not in called or has_hooks(module)}
        kept = -1
        while kept != len(self.kept_before) + len(self.kept_behind):
            kept = len(self.kept_before) + len(self.kept_behind)
            self.outputs: dict[nn.Module, set[Demand | None]] = defaultdict(set)
            self.inputs: dict[nn.Module, set[Factor]] = defaultdict(set)
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
        for factors in self.inputs.values():
            if len({value for value, _ in factors}) > 1:
                self._keep(*factors)
        for name in self.states.values():
            if "doubled" in name:
                self.kept_behind |= name.get("as it is", set())

    def _keep(self, *factors: Factor) -> None:
        for _, sources in factors:
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

    # --- factors: from each core on to the layers that read its output ----------------------------------------------

    def _go_forward(self, graph: fx.Graph) -> None:
        factors: dict[fx.Node, Factor] = {}
        for node in graph.nodes:
            factors[node] = self._factor(node, factors)

    def _factor(self, node: fx.Node, factors: dict[fx.Node, Factor]) -> Factor:
        """The factor that the value of a node lacks."""
        if is_insensitive(node):
            return NOTHING
        module = self._module(node)
        layer = self._layer(node, CONSUMERS)
        data: tuple[fx.Node, ...] = ()
        result = NOTHING
        if layer is not None:
            data = _nodes(node.args[: 2 if isinstance(layer, nn.Bilinear) else 1])
            self.inputs[layer].add(_product([factors[n] for n in data]))
        elif isinstance(module, RNN):
            data = (*_nodes(node.args[:1]), *self._state(node, module, factors))
            self.inputs[module].add(_product([factors[n] for n in _nodes(node.args[:1])]))
        elif (way := passage(node, self.modules)) is not None:
            data = way.data
            carried = [factors[n] for n in data]
            if len({value for value, _ in carried}) == 1:
                result = carried[0][0], frozenset().union(*(sources for _, sources in carried))
            else:
                self._keep(*carried)
        self._keep(*(factors[n] for n in _others(node, data)))
        if module is not None and module in self.factor and module not in self.kept_behind:
            return self.factor[module], frozenset((module,))
        return result

    def _state(self, node: fx.Node, layer: RNN, factors: dict[fx.Node, Factor]) -> tuple[fx.Node, ...]:
        """Note how an initial state y arrives: nn.RNN wants 2 y, which is what lacks the factor 1/2."""
        state = node.kwargs.get("state", node.args[1] if len(node.args) > 1 else None)
        if state is None:
            self.states[layer].setdefault("none", set())
        elif isinstance(state, fx.Node) and factors[state][0] == 0.5:
            self.states[layer].setdefault("as it is", set()).update(factors[state][1])
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


def _product(factors: list[Factor]) -> Factor:
    value, sources = NOTHING
    for each, of in factors:
        value, sources = value * each, sources | of
    return value, sources


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
