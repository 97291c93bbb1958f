"""The gaps: parts and numbers that the rules could not judge."""

from collections.abc import Iterator, Sequence

from sigmoidcore.diagnosis.findings import Gap
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.units import ROWS
from sigmoidcore.diagnosis.rules.updates import MEASUREMENTS
from sigmoidcore.diagnosis.wording import counted, listed


def gaps(measurements: Sequence[Measurement]) -> tuple[Gap, ...]:
    """What could not be judged in the measurements of a training, latest last: the decisive gaps first."""
    evidence = Evidence(measurements)
    return tuple(sorted((*_parts(evidence), *_numbers(evidence)), key=lambda gap: not gap.decisive))


def _parts(evidence: Evidence) -> Iterator[Gap]:
    """Parts of the model without a gradient, or whose layers cannot be measured."""
    latest = evidence.latest
    frozen = [weight.name for weight in latest.weights if not weight.trains]
    if latest.quantized:
        yield Gap(counted(len(latest.quantized), "quantized layer"), listed(latest.quantized), decisive=True)
    if latest.scripted:
        yield Gap(f"{counted(len(latest.scripted), 'module')} of TorchScript", listed(latest.scripted))
    if frozen and len(frozen) == len(latest.weights):
        yield Gap("the training", f"all {counted(len(frozen), 'parameter')} are frozen", decisive=True)
    elif latest.layers and not any(evidence.live):
        yield Gap("the gradient", "none reached a layer with weights", decisive=True)
    if 0 < len(frozen) < len(latest.weights):
        yield Gap(f"{len(frozen)} of {counted(len(latest.weights), 'parameter')}", "frozen")


def _numbers(evidence: Evidence) -> Iterator[Gap]:
    """Rules that need more steps, more samples or the loss."""
    latest, steps = evidence.latest, len(evidence.measurements)
    if latest.samples == 1:
        yield Gap("differences between samples", "1 sample", decisive=True)
    if latest.step is None:
        yield Gap("step sizes", "no step was seen")
    elif all(weight.update is None for weight in latest.weights):
        yield Gap("step sizes", "no optimizer made the last step", decisive=True)
    elif steps < MEASUREMENTS:
        yield Gap("step sizes", f"{counted(steps, 'measured step')}, {MEASUREMENTS} are needed", decisive=True)
    few = [evidence.layers[i] for i in evidence.hidden if evidence.layers[i].rows < ROWS]
    if few:
        rows = max(layer.rows for layer in few)
        yield Gap(f"neurons of {counted(len(few), 'activation')}", f"{counted(rows, 'row')}, {ROWS} are needed")
    if latest.loss_function is None:
        yield Gap("the loss and the targets", "no loss function was seen")
