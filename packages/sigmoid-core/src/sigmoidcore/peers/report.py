"""A comparison as a table and as figures."""

import math
import statistics
from typing import TYPE_CHECKING, Any

from sigmoidcore.peers.comparison import Comparison
from sigmoidcore.peers.standings import Standing, mean
from sigmoidcore.language import _

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rows(comparison: Comparison) -> list[dict[str, str]]:
    """A row for every method at every depth; the columns are the keys, see `heads`."""
    return [_row(standing, comparison) for standing in comparison.standings]


def heads() -> dict[str, str]:
    """The columns in the user's language."""
    return {
        "method": _("method"), "layers": _("layers"), "accuracy": _("accuracy"), "rate": _("rate"), "knob": _("knob"),
        "settings tried": _("settings tried"), "seconds": _("seconds"), "in all": _("in all"), "basin": _("basin"),
        "parameters": _("parameters"), "settings": _("settings"), "networks": _("networks"), "source": _("source"),
    }  # fmt: skip


def notes(comparison: Comparison) -> list[str]:
    """How the table is to be read."""
    budget, missing, total = comparison.budget, len(comparison.missing), len(comparison.settings)
    limit = f"{budget.seconds:g} s" if budget.seconds is not None else _("{count} epochs", count=budget.epochs)
    facts = {"data": comparison.data.name, "width": budget.width, "size": budget.batch_size, "limit": limit}
    return [
        _("{data}, width {width}, batches of {size}, {limit} for each training.", **facts),
        _(
            "Each method has the best of the settings tried, by the mean over the seeds on the test samples: this "
            "favours methods with many settings. Rates with ≤ or ≥ are the smallest or largest tried: a better one may "
            "lie beyond. Seconds: to build and train one network; in all: in all settings and seeds. Basin: the "
            "largest over the smallest rate within 2 points of the best one."
        ),
        *([_("Not complete: {count} of {all} trainings are missing.", count=missing, all=total)] if missing else []),
    ]


def markdown(comparison: Comparison) -> str:
    """The table, how it is to be read, and the sources."""
    table = rows(comparison)
    cells = [[heads().get(name, name) for name in table[0]], ["---"] * len(table[0]), *(row.values() for row in table)]
    sources = [f"- `{name}`: {method.source}" for name, method in comparison.methods.items()]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in cells), "", *notes(comparison), "", *sources, ""])


def figures(comparison: Comparison) -> "dict[str, Figure]":
    """The metric against seconds, rates, and if there are several, depths; the gradient profiles of the deepest."""
    from sigmoidcore.plots import gradient_profiles, method_curves

    by_seconds: dict[str, Any] = {}
    by_rate: dict[str, Any] = {}
    by_depth: dict[str, Any] = {}
    for standing in sorted(comparison.standings, key=lambda s: s.depth):
        title, metric = f"{standing.depth} layers", mean(standing.best)
        by_seconds.setdefault(title, {})[standing.method] = standing.curve
        by_rate.setdefault(title, {})[standing.method] = list(standing.by_rate.items())
        by_depth.setdefault(standing.method, []).extend([] if metric is None else [(standing.depth, metric)])
    name = comparison.data.metric_name
    found = {
        "by_seconds": method_curves(by_seconds, "seconds to build and train", name),
        "by_rate": method_curves(by_rate, "learning rate (Sigmoid Core: sum over the layers)", name),
    }
    if len(by_rate) > 1:
        found["by_depth"] = method_curves({comparison.data.name: by_depth}, "hidden layers", name)
    deepest = max(standing.depth for standing in comparison.standings)
    profiles = {s.method: comparison.first_profile(s) for s in comparison.standings if s.depth == deepest}
    profiles = {name: profile for name, profile in profiles.items() if profile.names}
    if profiles:
        found["profiles"] = gradient_profiles(profiles)
    return found


def _row(standing: Standing, comparison: Comparison) -> dict[str, str]:
    best, data = standing.best, comparison.data
    rate, tried = best[0].setting.rate, sorted({rate for _, rate in standing.settings})
    edge = {tried[0]: "≤ ", tried[-1]: "≥ "}.get(rate, "") if len(tried) > 1 else ""
    metrics = [math.nan if trial.metric is None else trial.metric for trial in best]
    middle, low, high = (f"{of(metrics):.{1 if data.task.unit else 3}f}" for of in (statistics.mean, min, max))
    shown = middle + data.task.unit + (_(" ({low} to {high})", low=low, high=high) if len(best) > 1 else "")
    return {
        "method": standing.method,
        "layers": f"{standing.depth:,}",
        data.metric_name: shown if mean(best) is not None else _("not finite"),
        "rate": f"{edge}{rate:g}",
        "knob": comparison.methods[standing.method].knob_text(best[0].setting.knob) or "-",
        "settings tried": str(len(standing.settings)),
        "seconds": f"{statistics.mean(trial.seconds for trial in best):.1f}",
        "in all": f"{sum(trial.seconds for trials in standing.settings.values() for trial in trials):.1f}",
        "basin": "-" if standing.basin is None else f"{standing.basin:.3g}",
        "parameters": f"{best[0].parameters:,}",
    }
