"""The state of a gradient scaler."""

import torch


def stepped(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether `scaler.step` was called since the last update, with this optimizer or, if it is None, with any.

    The public API does not tell a skipped step from one that was never tried. True where this cannot be known.
    """
    states = getattr(scaler, "_per_optimizer_states", None)
    if states is None:
        return True
    chosen = states.values() if optimizer is None else [s for key, s in states.items() if key == id(optimizer)]
    return any(getattr(state.get("stage"), "name", "") == "STEPPED" for state in chosen)
