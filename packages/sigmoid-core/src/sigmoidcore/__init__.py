"""Sigmoid Core: plain networks of sigmoids that train at any depth.

    import sigmoidcore as sc

The public names, one verb a module: `convert`, `prepare`, `calibrate`, `Equalizer`, `diagnose` (and `Monitor`), `fold`;
the core itself: `SigmoidCore`, `sigmoid_core`; `gradient_profile`; networks: `MLP`; PyTorch's
recurrent layers as cores: `recurrent`; the learning-rate rule: `depth_scaled_lr`.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sigmoidcore._public import *  # noqa: F403
else:
    # The first name that is used imports all of them: `unstuck train.py` imports this package before PyTorch.
    def __getattr__(name):
        if not name.startswith("__") or name == "__all__":
            import sigmoidcore._public as public

            for each in ("__all__", *public.__all__):
                globals().setdefault(each, getattr(public, each))  # a name that somebody has replaced stays
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
