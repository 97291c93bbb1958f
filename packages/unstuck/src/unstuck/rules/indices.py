"""Indices that begin at 0 in each part of the data, and are read as if they counted on."""

from dataclasses import dataclass

from unstuck.language import _
from unstuck.measure.again import FEWEST, Again
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule
from unstuck.wording import named

ENOUGH_ROWS = 0.9
"""Share of an embedding's rows that all columns together would read with offsets."""

SHIFT_CODES = "Add to the codes of each column the number of codes of those before it, or give each its own embedding."
SHIFT_EDGES = "Add to the edges of each graph the number of nodes before it, as the `Batch` of PyTorch Geometric does."


@rule("US712", "indices without offsets", remedy=SHIFT_CODES, mistake=True)
def unshifted(evidence: Evidence) -> Found | None:
    """Different things have the same index: codes of several columns, or nodes of several graphs."""
    if codes := evidence.ask(columns):
        text = _(
            "The codes of {count} columns begin at 0 and share {used} of the {rows} rows of {name}, which has rows for "
            "each.",
            count=codes.count, used=codes.used, rows=codes.rows, name=named(codes.module),
        )  # fmt: skip
        return Found((codes.module,), codes.used / codes.rows, 1 / codes.count, text)
    if count := evidence.ask(joined_graphs):
        text = _("The edges of {count} graphs all name the nodes of the first ones: each begins at 0.", count=count)
        return Found((), count, 1, text, SHIFT_EDGES)
    return None


@dataclass(frozen=True)
class Columns:
    """Columns of codes that an embedding reads."""

    module: str
    count: int
    used: int  # rows
    rows: int


@question
def columns(again: Again) -> Columns | None:
    """Columns whose codes begin at 0, read by an embedding that has as many rows as all of them have codes."""
    for node in again.step.calls("embedding"):
        ids, rows = again.run(node.reads[:2])
        if ids.dim() != 2 or len(ids) != again.samples or ids.shape[1] < FEWEST or ids.amin(0).any():
            continue
        codes, enough = ids.amax(0) + 1, ENOUGH_ROWS * len(rows)
        if codes.min() < codes.max() and enough <= codes.sum() <= len(rows) >= 2 * codes.max():  # else they are tokens
            return Columns(node.module or "", len(codes), int(codes.max()), len(rows))
    return None


@question
def joined_graphs(again: Again) -> int:
    """The number of graphs in a batch whose edges [2, edges] all name nodes of the first, by the graph of each node."""
    data = (n.value for n in again.step.nodes if n.op in ("input", "constant") and n.value is not None)
    numbers = [x for x in data if not x.is_floating_point() and x.numel() > FEWEST]
    for owners in (x for x in numbers if x.dim() == 1 and x[0] == 0 and set(x.diff().tolist()) == {0, 1}):
        sizes = owners.bincount()
        for edges in (x for x in numbers if x.dim() == 2 and x.shape[0] == 2 and x.shape[1] > len(sizes) >= FEWEST):
            if int(edges.max()) < int(sizes.max()) < int(sizes.sum()) / 2:  # no large graph before small ones
                return len(sizes)
    return 0
