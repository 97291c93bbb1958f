"""The figures of the page, in its order."""

from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.report.page import bars, heat
from sigmoidcore.diagnosis.report.page.lines import through_time
from sigmoidcore.diagnosis.report.page.panel import Panel


def panels(diagnosis: Judgement) -> list[Panel]:
    """All that there is something to draw for."""
    drawn = (bars.profile, heat.history, heat.slopes, heat.outputs, through_time, bars.updates)
    return [panel for draw in drawn if (panel := draw(diagnosis)) is not None]
