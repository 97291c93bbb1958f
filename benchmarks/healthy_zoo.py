"""Healthy networks that nobody here built: what `unstuck` accuses them of.

`zoo/` has a small model of every family of timm and torchvision, architectures of Transformers, and networks of other
fields and habits, written by hand. None has pretrained weights. Each is diagnosed at its initialisation, then trained
for `STEPS` steps on one batch of random data of its kind under a `Monitor`, whose diagnosis is the second, and
diagnosed again. Errors and warnings count as accusations, notes do not; `zoo.network.Network.true` holds those that
are right, with the reason.

    pip install timm torchvision transformers

Networks whose package is not installed have rows that say so. `--quick` takes every tenth.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

import unstuck
from _report import Report, Row, arguments, table
from unstuck.findings import Severity
from unstuck.observation.batch import run
from zoo import GROUPS, Network

STAGES = ("initial", "monitor", "trained")
STEPS, EVERY = 20, 4


def losses_of(network: Network, problem: Any, stages: dict[str, unstuck.Diagnosis]) -> tuple[float, float]:
    """Diagnose a network at all stages; returns the first and the last loss of its training."""
    model, inputs, targets, loss_fn = problem
    stages["initial"] = unstuck.diagnose(model, inputs, targets, loss_fn, training=network.training)
    optimizer = network.optimizer(model) if network.optimizer else torch.optim.AdamW(model.parameters(), network.rate)
    losses: list[float] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = loss_fn(run(model, inputs), targets)
        loss.backward()
        losses.append(float(loss))
        return loss

    model.train()
    with unstuck.Monitor(model, every=EVERY) as monitor:
        for _ in range(STEPS):
            optimizer.step(closure)
    stages["monitor"] = monitor.diagnosis()
    stages["trained"] = unstuck.diagnose(model, inputs, targets, loss_fn, training=network.training)
    return losses[0], losses[-1]


def rows_of(group: str, network: Network) -> Iterator[Row]:
    """A row for each stage; an error belongs to the stages that it prevents."""
    stages: dict[str, unstuck.Diagnosis] = {}
    error, losses = None, (None, None)
    started = time.perf_counter()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            losses = losses_of(network, network.problem(), stages)
        except ModuleNotFoundError as missing:
            error = f"not installed: {missing.name}"
        except Exception as failure:  # a tool that falls over is a result
            error = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    seconds = round(time.perf_counter() - started, 2)
    for stage in STAGES:
        found = stages[stage].findings if stage in stages else ()
        notes = stages[stage].measurement.notes if stage in stages else ()
        bug = next((note for note in notes if "please report" in note), None)
        accusations = [f for f in found if f.severity is not Severity.NOTE]
        yield {
            "group": group,
            "network": network.name,
            "stage": stage,
            "error": bug if stage in stages else error,
            "accused": any(f.rule not in network.true for f in accusations),
            "rules": " ".join(f.rule for f in accusations) or None,
            "first_loss": losses[0],
            "last_loss": losses[1],
            "layers": len(stages[stage].measurement.layers) if stage in stages else None,
            "seconds": seconds,
            "found": [[f.rule, f.severity.value, list(f.layers[:5]), f.message] for f in found],
        }


def summary(rows: list[Row]) -> list[Row]:
    """A line for each group and stage, and one for all."""
    groups: dict[tuple[str, str], Callable[[Row], bool]] = {
        (group, stage): lambda row, g=group, s=stage: (row["group"], row["stage"]) == (g, s)
        for group in dict.fromkeys(row["group"] for row in rows)
        for stage in STAGES
    }
    lines = []
    for (group, stage), belongs in {**groups, ("all", "all"): lambda row: True}.items():
        mine = [row for row in rows if belongs(row)]
        judged = [row for row in mine if row["error"] is None]
        accused = sum(row["accused"] for row in judged)
        rules = Counter(rule for row in judged if row["accused"] for rule in (row["rules"] or "").split())
        lines.append(
            {
                "group": group,
                "stage": stage,
                "networks": len(judged),
                "accused": accused,
                "%": round(100 * accused / max(1, len(judged)), 1),
                "rightly": sum(bool(row["rules"]) and not row["accused"] for row in judged),
                "errors": len(mine) - len(judged),
                "rules": ", ".join(f"{rule} {count}" for rule, count in rules.most_common()),
            }
        )
    return lines


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    settings = {"steps": STEPS, "every": EVERY}
    report = Report("healthy_zoo", options, key=("group", "network", "stage"), seeds=[0], settings=settings)
    for group, networks in GROUPS.items():
        for network in networks[::10] if options.quick else networks:
            wanted = [s for s in STAGES if report.wants(group=group, network=network.name, stage=s)]
            for row in rows_of(group, network) if wanted else ():
                if row["stage"] in wanted:
                    report.add(**row)
    report.finish()
    print(f"\n{table(summary(report.rows))}")
    for row in report.rows:
        if row["accused"] or row["error"]:
            said = row["error"] or [
                f"{rule}: {message}" for rule, severity, _, message in row["found"] if severity != "note"
            ]
            print(f"{row['group']}: {row['network']}, {row['stage']}: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
