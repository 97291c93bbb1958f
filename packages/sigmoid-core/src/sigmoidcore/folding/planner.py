"""Where the constants of the cores can go: into the layer before a core, into those behind it, or nowhere.

A core is f * act(a x + b), with act a sigmoid or a tanh. Going back from each core, `FoldPlan` asks the layer that
gives x to take in a and b. Going forward, it asks the layers that read the output to take in f. It starts with all
taken in. A constant that some layer cannot take in stays at its core, until nothing changes any more (docs/fold.md).
"""

import inspect
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore._torch.modules import has_hooks
from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.dataflow import features_of, reads_metadata
from sigmoidcore.conversion.tracing import Tracer, UntraceableError, is_leaf, scratch_copy
from sigmoidcore.core import CoreModule, SigmoidCore
from sigmoidcore.folding.commutation import CONSUMERS, PRODUCERS, output_axes, passage
from sigmoidcore.folding.plain_layers import affine_of, weights_of_input

Demand = tuple[SigmoidCore, bool]  # a core whose constants the value must take in, and whether its offset is among them
Pending = tuple[float, frozenset[nn.Module]]  # the factor that a value still needs, and the cores that it comes from
_NOTHING: Pending = 1.0, frozenset()


class FoldPlan:
    """Which constants go where."""

    def __init__(self, model: nn.Module, graphs: list[fx.Graph]) -> None:
        self.model = model
        self.graphs = graphs
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.names: dict[nn.Module, str] = {module: name for name, module in reversed(self.modules.items())}
        cores = [m for m in self.names if isinstance(m, SigmoidCore)]
        self.affine = {core: affine_of(core, self.names[core]) for core in cores}
        # sigmoid(z) - 1/2 = tanh(z/2)/2
        self.factors: dict[nn.Module, float] = {c: c.scale * 0.5 if c.centered else c.scale for c in cores}
        self.unchangeable = _unchangeable(model, graphs, self.modules)
        called = {self.modules[str(n.target)] for g in graphs for n in g.nodes if n.op == "call_module"}
        keep_all = {m for m in self.factors if m not in called or has_hooks(m)}
        self.stays_before: set[nn.Module] = {c for c in cores if c in keep_all or self.affine[c].is_identity}
        self.stays_behind: set[nn.Module] = {m for m, factor in self.factors.items() if m in keep_all or factor == 1}
        self._solve()

    def _solve(self) -> None:
        count = -1
        while count != len(self.stays_before) + len(self.stays_behind):
            count = len(self.stays_before) + len(self.stays_behind)
            self.outputs: dict[nn.Module, set[Demand | None]] = defaultdict(set)
            self.inputs: dict[nn.Module, set[Pending]] = defaultdict(set)
            for graph in self.graphs:
                self._go_back(graph)
                pending: dict[fx.Node, Pending] = {}
                for node in graph.nodes:
                    pending[node] = self._pending(node, pending)
            for demands in self.outputs.values():  # a layer that runs several times has one weight
                if len(demands) > 1:
                    self.stays_before |= {demand[0] for demand in demands if demand}
            for read in self.inputs.values():
                if len({factor for factor, _ in read}) > 1:
                    self._keep(read)

    def _keep(self, pending: Iterable[Pending]) -> None:
        """Leave these factors at their cores."""
        for _, cores in pending:
            self.stays_behind |= cores

    def _go_back(self, graph: fx.Graph) -> None:
        asked: dict[fx.Node, Demand | None] = {}
        for node in reversed(graph.nodes):
            demands = {self._demand(user, node, asked) for user in node.users if not reads_metadata(user)}
            demand = demands.pop() if len(demands) == 1 else None
            self.stays_before |= {d[0] for d in demands if d}
            asked[node] = demand
            layer = self._layer(node, PRODUCERS)
            if layer is not None:
                self.outputs[layer].add(demand)
            if demand is None:
                continue
            taken = self._takes_in(layer, demand) if layer is not None else self._passes(node, demand)
            if not taken:
                self.stays_before.add(demand[0])

    def _demand(self, user: fx.Node, node: fx.Node, asked: dict[fx.Node, Demand | None]) -> Demand | None:
        """What `user` asks of its input `node`."""
        core = self._module(user)
        if isinstance(core, SigmoidCore):
            return None if core in self.stays_before else (core, self.affine[core].has_offset)
        demand = asked[user]
        way = passage(user, self.modules) if demand is not None else None
        if demand is None or demand[0] in self.stays_before or way is None or node not in way.data:
            return None
        return (demand[0], demand[1] and not (way.adds and node is not way.data[0]))

    def _takes_in(self, layer: nn.Module, demand: Demand) -> bool:
        affine, features = self.affine[demand[0]], features_of(layer)
        if affine.dim is None or features is None:
            return affine.dim is None
        return affine.dim in output_axes(layer) and features[0] == affine.gain.numel()

    def _passes(self, node: fx.Node, demand: Demand) -> bool:
        way = passage(node, self.modules)
        if way is None or (demand[1] and not way.offset) or len(node.all_input_nodes) != len(_all_inputs(node)):
            return False  # or an input is used twice, of which an offset could go into one use only
        dim = self.affine[demand[0]].dim
        if dim is None:
            return True
        return (way.axes is None or dim in way.axes) and not (way.adds and dim >= 0)  # the inputs' ranks may differ

    def _pending(self, node: fx.Node, pending: dict[fx.Node, Pending]) -> Pending:
        """The factor that the value of a node still needs."""
        if reads_metadata(node):
            return _NOTHING
        module = self._module(node)
        layer = self._layer(node, CONSUMERS)
        data: tuple[fx.Node, ...] = ()
        result = _NOTHING
        if layer is not None:
            data = tuple(value for value in node.args[:1] if isinstance(value, fx.Node))
            self.inputs[layer].update(pending[n] for n in data)
        elif (way := passage(node, self.modules)) is not None:
            data = way.data
            carried = [pending[n] for n in data]
            if len({factor for factor, _ in carried}) == 1:
                result = carried[0][0], frozenset().union(*(cores for _, cores in carried))
            else:
                self._keep(carried)
        others = _all_inputs(node)
        for one in data:  # one that is read in another way, too, stays among the others
            others.remove(one)
        self._keep(pending[n] for n in others)
        if module is not None and module in self.factors and module not in self.stays_behind:
            return self.factors[module], frozenset((module,))
        return result

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _layer(self, node: fx.Node, kinds: set[type[nn.Module]]) -> nn.Module | None:
        """The layer that this node calls, if its weights may be changed."""
        module = self._module(node)
        return module if module is not None and type(module) in kinds and module not in self.unchangeable else None


def _all_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node, as often as they occur."""
    inputs: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), inputs.append)
    return inputs


def _unchangeable(model: nn.Module, graphs: list[fx.Graph], modules: dict[str, nn.Module]) -> set[nn.Module]:
    """The layers whose weights must stay: something else reads or makes them, or may."""
    owners: dict[int, set[nn.Module]] = defaultdict(set)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(module)
    found = {module for shared in owners.values() if len(shared) > 1 for module in shared}
    for graph in graphs:
        for node in graph.nodes:
            if node.op == "call_module":
                found.update(set(modules[str(node.target)].modules()) - {modules[str(node.target)]})
            elif node.op == "get_attr":
                owner = modules.get(str(node.target).rpartition(".")[0])
                if isinstance(owner, SigmoidCore):
                    raise ValueError(
                        f"the forward reads '{node.target}', which a folded model does not have: leave it out"
                    )
                tensor = getattr(owner, str(node.target).rpartition(".")[2], None)
                found.update(owners[id(tensor)] if isinstance(tensor, Tensor) else ())
    return found | {m for m in model.modules() if type(m) in PRODUCERS | CONSUMERS and not _may_change(m)}


def _may_change(layer: nn.Module) -> bool:
    """Whether a layer has weights, and no hook runs with it, such as one that normalizes a weight."""
    own = dict(layer.named_parameters(recurse=False))
    weights = weights_of_input(layer)
    return bool(weights) and all(name in own for name in weights) and not has_hooks(layer)


def variants(model: nn.Module) -> list[fx.Graph]:
    """The graphs of a forward in training and evaluation, with flags turned over and optional arguments given."""
    arguments = inspect.signature(type(model).forward).parameters.values()
    defaults = {p.name: p.default for p in arguments if p.default is None or isinstance(p.default, bool)}

    def others(*names: str) -> dict[str, Any]:
        """The values with these turned over; an argument without a value here is given."""
        return {n: (not v if n in names else v) for n, v in defaults.items() if not (v is None and n in names)}

    ways = [others(), *map(others, defaults), *([others(*defaults)] if len(defaults) > 1 else [])]
    return [_trace(model, training, way) for training in (True, False) for way in ways]


def has_cores(module: nn.Module) -> bool:
    """Whether a module is a core or contains one."""
    return any(isinstance(m, CoreModule) for m in module.modules())


class _Tracer(Tracer):
    """PyTorch's own layers and cores are nodes; with `around`, so are modules without cores."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.around = around

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or (self.around and not has_cores(m))

    def create_arg(self, a: Any) -> Any:
        """A tensor that was computed from a parameter would be taken for a constant."""
        if type(a) is not TensorProxy and isinstance(a, Tensor) and a.grad_fn is not None:
            raise UntraceableError("it computes with a parameter that it does not read as an attribute of a module")
        return super().create_arg(a)


def _trace(model: nn.Module, training: bool, fixed: dict[str, Any]) -> fx.Graph:
    """One way; a module without cores whose forward cannot be followed is a node of the graph."""
    with suppress(UntraceableError):
        return _Tracer(around=False).trace_copy(scratch_copy(model).train(training), fixed)
    try:
        return _Tracer(around=True).trace_copy(scratch_copy(model).train(training), fixed)
    except UntraceableError as error:
        mode = "training" if training else "evaluation"
        given = "".join(f", {name}={value}" for name, value in fixed.items())
        kind = type(model).__name__
        raise UntraceableError(f"the forward of {kind} cannot be traced (in {mode}{given}): {error}") from error
