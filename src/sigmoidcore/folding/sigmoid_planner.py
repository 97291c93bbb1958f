"""Which centered cores a folded model can have as sigmoids: sigmoid(z) - 1/2, with the 1/2 in the layers behind."""

from collections.abc import Iterator

from torch import fx, nn

from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding.planner import Plan


def plan_with_sigmoids(model: nn.Module, graphs: list[fx.Graph]) -> Plan:
    """The plan in which a centered core is a sigmoid where layers take in all that this asks of them, else a tanh.

    It starts with sigmoids everywhere, and makes a new plan without those of which something would stay.
    """
    sigmoids = {m for m in model.modules() if isinstance(m, SigmoidCore) and m.centered}
    sigmoids.difference_update(_of_other_calls(model))
    while True:
        plan = Plan(model, graphs, sigmoids)
        tanhs = {core for core in sigmoids if plan.keeps(core)}
        if not tanhs:
            return plan
        sigmoids -= tanhs


def _of_other_calls(model: nn.Module) -> Iterator[nn.Module]:
    """The cores where the forward of the class, which the copy has again, calls something else than a sigmoid."""
    for owner in model.modules():
        forward = owner.__dict__.get("forward")
        if isinstance(forward, TracedForward):
            yield from (owner.get_submodule(core) for core, was in forward.added.items() if was != "sigmoid()")
