"""Where a tensor of a forward pass comes from."""

from dataclasses import dataclass

from unstuck.measure.views import Shapes


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor comes from."""

    sources: int = 0  # the last layers on its ways, as bits
    weights: tuple[str, ...] = ()  # its parameters, if it comes from no layer
    producer: int = -1  # the layer whose output it is, moved or reshaped at most
    dim: int = -1  # counts features
    constant: bool = False  # it is computed from parameters only
    parameter: str = ""  # the parameter that it is, moved or reshaped at most
    swapped: Shapes | None = None  # the shapes of a view that takes dimensions for others and moves no number
    summed: int = -1  # the layer whose output a loss has summed
    beyond: bool = False  # another network has computed it from outputs of the model


UNKNOWN = Origin()


def sources_of(origins: list[Origin]) -> int:
    """The layers on the ways of several tensors."""
    sources = 0
    for origin in origins:
        sources |= origin.sources
    return sources


def weights_of(origins: list[Origin]) -> tuple[str, ...]:
    """The parameters of several tensors."""
    return tuple(dict.fromkeys(w for origin in origins for w in origin.weights))


def bits(number: int) -> list[int]:
    """Places of the bits that are set, ascending."""
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found
