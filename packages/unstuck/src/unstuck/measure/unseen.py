"""Modules whose calls no hook and no function mode shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Unseen:
    """Names of modules with quantized weights, and of modules of TorchScript, without those inside of them."""

    quantized: tuple[str, ...] = ()
    scripted: tuple[str, ...] = ()


def unseen(modules: Mapping[str, nn.Module]) -> Unseen:
    """Find them among the modules of a model, by name, parents first."""
    return Unseen(
        _outermost([name for name, module in modules.items() if _is_quantized(module)]),
        _outermost([name for name, module in modules.items() if isinstance(module, torch.jit.ScriptModule)]),
    )


def _is_quantized(module: nn.Module) -> bool:
    """Whether the weights are packed: they are no parameters then, and have no gradient."""
    return type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))


def _outermost(names: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        if not found or not (found[-1] == "" or name.startswith(f"{found[-1]}.")):
            found.append(name)
    return tuple(found)
