"""US712: indices that begin at 0 in each part of the data."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck

SIZES = (6, 5, 4, 5)
STARTS = torch.tensor([0, 6, 11, 15])


def messages(model, batch):
    """What US712 says after ten steps on what `batch()` returns: inputs by name, and targets."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(10):
            inputs, targets = batch()
            optimizer.zero_grad()
            functional.mse_loss(model(**inputs), targets).backward()
            optimizer.step()
    return [finding.message for finding in monitor.diagnosis(seconds=0).findings if finding.rule == "US712"]


class Table(nn.Module):
    def __init__(self, offsets, rows):
        super().__init__()
        self.embedding, self.head = nn.Embedding(rows, 8), nn.Linear(8 * len(SIZES), 1)
        self.register_buffer("offsets", offsets)

    def forward(self, codes):
        return self.head(self.embedding(codes + self.offsets).flatten(1))


@pytest.mark.parametrize(
    ("offsets", "rows", "named"),
    [(0 * STARTS, 20, True), (STARTS, 20, False), (0 * STARTS, 6, False), (0 * STARTS, 200, False)],
    ids=["without offsets", "with offsets", "rows of one column", "tokens"],
)
def test_columns_that_share_the_rows_of_an_embedding_for_all(offsets, rows, named):
    def batch():
        codes = torch.stack([torch.randint(size, (96,)) for size in SIZES], 1)
        return {"codes": codes}, codes.float().mean(1, keepdim=True)

    found = messages(Table(offsets, rows), batch)
    assert [("4 columns" in message, "6 of the 20 rows of `embedding`" in message) for message in found] == (
        [(True, True)] if named else []
    )


@pytest.mark.parametrize("first", [0, 1])
def test_places_and_tokens_whose_table_happens_to_have_such_a_size_are_healthy(first):
    def batch():
        ids = torch.arange(first, first + 4).expand(96, 4) if first else torch.randint(5, (96, 4))
        return {"codes": ids}, ids.float().mean(1, keepdim=True)

    assert messages(Table(0 * STARTS, 14 + 6 * (1 - first)), batch) == []


class Graphs(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.others, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x, edges, owners):
        sources, targets = edges  # which are read first
        messages = torch.zeros_like(x).index_add(0, targets, x[sources])
        hidden = torch.relu(self.own(x) + self.others(messages))
        return self.head(hidden.new_zeros(int(owners.max()) + 1, 8).index_add(0, owners, hidden))


@pytest.mark.parametrize("sizes", [(4, 6, 5, 7, 5, 6), (20, 1, 2, 1, 2, 1)])
@pytest.mark.parametrize("shifted", [True, False])
def test_edges_of_joined_graphs_are_shifted(shifted, sizes):
    def batch():
        starts = [sum(sizes[:i]) * shifted for i in range(len(sizes))]
        edges = torch.cat([torch.randint(n, (2, 3 * n)) + start for n, start in zip(sizes, starts, strict=True)], 1)
        owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        inputs = {"x": torch.randn(sum(sizes), 3), "edges": edges, "owners": owners}
        return inputs, torch.randn(len(sizes), 1)

    named = not shifted and max(sizes) < 20  # else they may be those of the first graph alone
    assert [("6 graphs" in message) for message in messages(Graphs(), batch)] == ([True] if named else [])
