"""Every activation and recurrent layer of a model: where it is, what it is, and what becomes of its result."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count

from torch import Tensor, nn
from torch.nn.modules import activation

from sigmoidcore.conversion.activations import function_of
from sigmoidcore.conversion.dataflow import Role, features, may_overwrite, nearest_weight, role_of
from sigmoidcore.conversion.tracing import Part, is_leaf
from sigmoidcore.core import CoreModule
from sigmoidcore.nn.recurrent import is_recurrent


@dataclass(frozen=True)
class Use:
    """One call of an activation in a forward pass."""

    kind: nn.Module | str  # the module, or the name of the function
    index: int  # of the function, among the functional activations in its owner's forward
    why: str  # it is left; "" if layers read its result
    features: tuple[int, int] | None  # of its input: their number and dimension
    weight: Tensor | None  # the nearest one, for device and dtype
    owner: str  # name of the module whose forward makes the call
    call: int  # how often that forward had been called
    writes: bool  # the function overwrites a tensor that something else may read


@dataclass(frozen=True, eq=False)
class Site:
    """One activation or recurrent layer: a module, or a functional call in a forward."""

    names: tuple[str, ...]  # in the model, the one to show first; a functional call has the name that its core gets
    kind: str  # class of the module; "tanh()" for a functional call
    owner: str  # name of the module that calls it, if known
    module: nn.Module | None = None
    index: int | None = None  # of the functional call in its owner's forward
    uses: tuple[Use, ...] = ()
    why: str = ""  # the trace has no call of it

    @property
    def name(self) -> str:
        """The name to show."""
        return self.names[0]

    @property
    def places(self) -> int:
        """In how many places it is used; without calls in the trace, the number of its names."""
        return len(self.uses) or len(self.names)

    @property
    def common(self) -> Use | None:
        """What all uses have in common."""
        if len({use.features for use in self.uses}) > 1:
            return replace(self.uses[0], features=None)
        return self.uses[0] if self.uses else None

    @property
    def recurrent(self) -> nn.Module | None:
        """The module, if that is a recurrent layer or a cell."""
        return self.module if self.module is not None and is_recurrent(self.module) else None

    @property
    def called_several_times(self) -> bool:
        """Whether one forward calls one module several times: each call can have a core."""
        return len(self.names) == 1 and len(self.uses) > 1 and len({(use.owner, use.call) for use in self.uses}) == 1


def join(*names: str) -> str:
    """A name inside of another; "" is the model itself."""
    return ".".join(name for name in names if name)


def find_sites(model: nn.Module) -> tuple[list[Site], dict[str, str]]:
    """All activations in the order of the model's modules; and the modules that cannot be traced, with the reason."""
    parts, untraced, callers = _parts(model)
    uses: dict[nn.Module, list[Use]] = defaultdict(list)
    functions: dict[tuple[str, int], list[Use]] = defaultdict(list)
    for use in (use for part in parts for use in _uses(part, model, callers)):
        (uses[use.kind] if isinstance(use.kind, nn.Module) else functions[use.owner, use.index]).append(use)
    sites = [*_modules(model, uses, callers), *_functions(model, functions)]
    order = {name: i for i, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    sites.sort(key=lambda site: order[site.owner if site.module is None else site.name])
    return sites, untraced


def _parts(model: nn.Module) -> tuple[list[Part], dict[str, str], dict[str, str]]:
    """The largest modules that can be traced; those that cannot, with the reason; and who calls a part, in words."""
    parts: list[Part] = []
    untraced: dict[str, str] = {}
    callers: dict[str, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    waiting, found = deque([""]), set()

    def go_into(name: str, why: str = "") -> None:
        opaque = f"{type(modules[name]).__name__} calls it, whose forward is not looked into"
        for child, _ in modules[name].named_children():
            callers[join(name, child)] = why or opaque
            waiting.append(join(name, child))

    while waiting:
        name = waiting.popleft()
        module = modules[name]
        if module in found:
            continue
        found.add(module)
        if type(module).forward is nn.Module.forward or is_leaf(module):
            go_into(name, callers.get(name, ""))
            continue
        part = Part(name, module)
        parts.append(part)
        for inner, reason in part.untraced.items():
            place = join(name, inner)
            untraced[place] = reason
            whose = f"'{place}'" if place else "the model"
            go_into(place, f"the forward of {whose} cannot be traced")
        for target in {str(node.target) for node in part.graph.nodes if node.op == "call_module"} - set(part.untraced):
            if not is_activation(module.get_submodule(target)):
                go_into(join(name, target))
    return parts, untraced, callers


def _uses(part: Part, model: nn.Module, callers: dict[str, str]) -> Iterator[Use]:
    """The uses of activations in one part."""
    root = model.get_submodule(part.name)
    known = features(part, root)
    counts: Counter[tuple[str, int]] = Counter()
    for node in part.graph.nodes:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        function = function_of(node)
        kind = function or (module if module is not None and is_activation(module) else None)
        if kind is None:
            continue
        found, lost = role_of(node, part, root)
        unknown = ""
        if found is Role.UNKNOWN:
            unknown = f"its result goes into '{join(part.name, lost)}', whose forward cannot be traced"
        elif found is Role.OUTPUT and part.name:
            unknown = f"its result leaves '{part.name}', and {callers[part.name]}"
        read = node.all_input_nodes[:1]
        owner, call = join(part.name, node.meta["owner"]), node.meta["call"]
        in_place = str(getattr(node.target, "__name__", node.target)).endswith("_")
        yield Use(
            kind=kind,
            index=counts[owner, call],
            why=f"{unknown}; name it in include= if a layer reads it" if unknown else found.value,
            features=known.get(read[0]) if read else None,
            weight=nearest_weight(node, root),
            owner=owner,
            call=call,
            writes="out" in node.kwargs or (in_place and may_overwrite(node, root)),
        )
        counts[owner, call] += function is not None


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's activations, a recurrent layer or a core."""
    own = type(module).__module__ == activation.__name__ and not isinstance(module, nn.MultiheadAttention)
    return own or isinstance(module, CoreModule) or is_recurrent(module)


def _modules(model: nn.Module, uses: dict[nn.Module, list[Use]], callers: dict[str, str]) -> Iterator[Site]:
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if is_activation(module):
            names[module].append(name)
    for module, places in names.items():
        found = tuple(uses.get(module, ()))
        why = "" if found else callers.get(places[0], "it does not run in the forward as traced")
        owner = found[0].owner if found else places[0].rpartition(".")[0]
        yield Site(tuple(places), type(module).__name__, owner, module, uses=found, why=why)


def _functions(model: nn.Module, functions: dict[tuple[str, int], list[Use]]) -> Iterator[Site]:
    taken: dict[str, set[str]] = defaultdict(set)
    for (owner, index), found in sorted(functions.items()):
        function, module = str(found[0].kind), model.get_submodule(owner)
        numbered = chain([function], (f"{function}_{i}" for i in count(1)))
        name = next(n for n in numbered if n not in taken[owner] and not hasattr(module, n))
        taken[owner].add(name)
        yield Site((join(owner, name),), f"{function}()", owner, index=index, uses=tuple(found))
