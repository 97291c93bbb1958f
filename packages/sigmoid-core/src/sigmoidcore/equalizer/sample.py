"""What the Equalizer measured and changed at one step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """The measurement of one sampled step, and the changes.

    Attributes:
        step: optimizer step, from 0.
        spread: spread of the gradient profile; nan if a gradient was not finite, and then nothing was changed.
        log_sizes: natural logarithms of the profile, thinned to at most 64 layers, input to loss.
        slopes: layers whose slope followed the profile.
        neurons: saturated neurons that were set back to a level.
        recovered: cores that were set back to the level that they had before an accident.
    """

    step: int
    spread: float
    log_sizes: tuple[float, ...]
    slopes: int
    neurons: int
    recovered: int = 0
