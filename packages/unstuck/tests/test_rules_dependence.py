"""US506, US606: what outputs depend on, found on real networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.measuring import Forward

import unstuck
from unstuck.findings import Severity

WORDS = torch.randint(20, (32, 9))


class Encoder(nn.Module):
    """Tokens through one layer of a transformer, to one output for a sentence or for each token."""

    def __init__(self, batch_first=True, positions=True, causal=False, pooled=True):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.positions = nn.Parameter(torch.randn(8, 16)) if positions else 0
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.head = nn.Linear(16, 20)
        self.causal, self.pooled = causal, pooled

    def forward(self, words):
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1]) if self.causal else None
        hidden = self.layer(self.embedding(words) + self.positions, mask)
        return self.head(hidden.mean(1) if self.pooled else hidden)


def flat(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def findings(model, inputs, targets=None, loss=None):
    found = unstuck.diagnose(model, inputs, targets, loss).findings
    return [(f.rule, f.severity.value) for f in found if f.rule in ("US506", "US606")]


def of(forward):
    """A small network that calls this function of its hidden layer."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
            self.norm, self.dropout = nn.BatchNorm1d(12), nn.Dropout(0.5)

        def forward(self, x):
            return self.last(forward(self, torch.relu(self.first(x))))

    return Network()


MIXED = {
    "mean of the batch": lambda net, h: h - h.mean(0),
    "softmax over the batch": lambda net, h: h.softmax(0),
    "reshape": lambda net, h: h.T.reshape(len(h), -1),
    "cumulative sum": lambda net, h: h.cumsum(0),
}
APART = {
    "nothing": lambda net, h: h,
    "batch normalisation": lambda net, h: net.norm(h),
    "dropout": lambda net, h: net.dropout(h),
    "noise": lambda net, h: h + torch.randn_like(h),
    "softmax over features": lambda net, h: h.softmax(1),
}


@pytest.mark.parametrize("forward", MIXED.values(), ids=list(MIXED))
def test_networks_that_mix_samples_are_named(forward):
    assert findings(of(forward), torch.randn(64, 6)) == [("US506", "warning")]


def test_a_finding_says_that_a_step_was_run_again():
    found = unstuck.diagnose(of(lambda net, h: h - h.mean(0)), torch.randn(64, 6))
    assert [finding.shown for finding in found.findings if finding.rule == "US506"] == [True]
    shown = "Shown by running the recorded step again."
    assert shown in str(found)
    assert shown in found._repr_html_()
    assert unstuck.Diagnosis.from_json(found.to_json()).findings[0].shown


@pytest.mark.parametrize("forward", APART.values(), ids=list(APART))
def test_networks_that_do_not_mix_samples_are_healthy(forward):
    assert findings(of(forward), torch.randn(64, 6)) == []


VIEWS = {
    "by sample": lambda h: h.repeat_interleave(3, 0),
    "by view": lambda h: h.repeat(3, 1),
    "by view, each with an offset": lambda h: h.repeat(3, 1) + torch.arange(3.0).repeat_interleave(len(h))[:, None],
    "two views": lambda h: torch.cat([h, -h]),
    "by step": lambda h: h.view(len(h), 3, 4).transpose(0, 1).flatten(0, 1).repeat(1, 3),
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=list(VIEWS))
def test_several_outputs_of_a_sample_may_stand_together_or_by_views(views):
    inputs = torch.randn(64, 6)
    assert findings(of(lambda net, h: views(h)), inputs) == []
    assert findings(of(lambda net, h: views(h - h.mean(0))), inputs) == [("US506", "warning")]
    assert findings(of(lambda net, h: views(h).roll(1, 0)), inputs) == [("US506", "warning")]


def test_two_inputs_that_one_network_reads_as_one_batch_are_not_mixed():
    model = Forward(lambda net, pair: net.last(torch.cat(pair)), last=nn.Linear(6, 3))
    assert findings(model, ((torch.randn(64, 6), torch.randn(64, 6)),)) == []


@pytest.mark.parametrize("views", VIEWS.values(), ids=list(VIEWS))
def test_an_output_that_depends_on_the_place_in_the_batch_is_named(views):
    model = of(lambda net, h: views(h + torch.linspace(0, 1, 64)[: len(h), None]))
    found = [f.message for f in unstuck.diagnose(model, torch.randn(64, 6)).findings if f.rule == "US506"]
    assert len(found) == 1
    assert "its place among them" in found[0]


def test_attention_across_the_batch_is_named_and_within_a_sample_is_not():
    assert findings(Encoder(batch_first=False), WORDS[:, :8]) == [("US506", "warning")]
    assert findings(Encoder(), WORDS[:, :8]) == []


MIXED = [("US506", "warning")]


def mixed_axes(model, inputs):
    model(inputs)  # lazy layers get their sizes
    found = unstuck.diagnose(model, inputs).findings
    return [(f.rule, f.severity.value) for f in found if "axes" in f.message]


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (lambda x: x.view(-1, 5, 3), MIXED),
        (lambda x: x.reshape(3, 64, 5).relu().mean(0), []),
        (lambda x: x.transpose(1, 2), []),
        (lambda x: x.reshape(64, 1, 15).view(64, 5, 3), []),
    ],
    ids=["features and steps swapped", "not read by a layer", "transposed", "in two views"],
)
def test_a_view_that_should_be_a_transpose_mixes_axes(move, expected):
    model = Forward(lambda net, x: net.last(move(x)), last=nn.LazyLinear(4))
    assert mixed_axes(model, torch.randn(64, 3, 5)) == expected


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (lambda x: x.view(64, 6, 4, 4), MIXED),  # [tokens, features] to [channels, height, width]
        (lambda x: x.transpose(1, 2).reshape(64, 6, 4, 4), []),
        (lambda x: x.view(64, 4, 4, 6).permute(0, 3, 1, 2), []),
        (lambda x: x.view(64, 16, 2, 3), []),  # heads of a token
        (lambda x: x.view(64 * 2, 16, 3), MIXED),  # heads beside the samples, with the positions of one head
        (lambda x: x.view(64, 16, 2, 3).transpose(1, 2).reshape(64 * 2, 16, 3), []),
        (lambda x: x[..., :4].reshape(64, 1, 8, 8), MIXED),  # patches
        (lambda x: x[..., :4].reshape(64, 4, 4, 2, 2).transpose(2, 3).reshape(64, 1, 8, 8), []),
    ],
)
def test_tokens_become_an_image_by_a_transpose(move, expected):
    model = Forward(lambda net, x: net.last(move(net.first(x))), first=nn.Linear(5, 6), last=nn.LazyConv2d(2, 1))
    assert mixed_axes(model, torch.randn(64, 16, 5)) == expected


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (lambda x: x.view(64, 20, 6).mT, MIXED),  # channels and steps of 5 frequencies, in rows of 6
        (lambda x: x.permute(0, 2, 1, 3).reshape(64, 6, 20), []),
        (lambda x: x.view(64, 4, 30), []),
        (lambda x: x.view(64 * 4, 6, 5), []),
        (lambda x: x.view(64, 2, 2, 3, 10).flatten(1), []),
    ],
    ids=["crossed", "transposed", "merged", "samples and channels", "split and merged"],
)
def test_rows_of_a_view_that_begin_inside_of_other_rows_mix_axes(move, expected):
    model = Forward(lambda net, x: net.last(move(net.first(x))), first=nn.Conv2d(1, 4, 1), last=nn.LazyLinear(2))
    assert mixed_axes(model, torch.randn(64, 1, 6, 5)) == expected


@pytest.mark.parametrize(
    ("move", "expected"),
    [(lambda x: x.view(64, 16, 6), MIXED), (lambda x: x.flatten(2).mT, []), (lambda x: x.flatten(2), [])],
)
def test_pixels_become_tokens_by_a_transpose(move, expected):
    model = Forward(lambda net, x: net.last(move(net.first(x))), first=nn.Conv2d(3, 6, 1), last=nn.LazyLinear(2))
    assert mixed_axes(model, torch.randn(64, 3, 4, 4)) == expected


def test_time_in_the_first_dimension_is_a_note_at_most():
    model = nn.LSTM(5, 7)
    assert findings(model, torch.randn(9, 4, 5)) == [("US506", "note")]
    assert findings(nn.LSTM(5, 7, batch_first=True), torch.randn(9, 4, 5)) == []


class Tagger(nn.Module):
    """Reads its texts in the order of their lengths."""

    def __init__(self, back):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(20, 8, padding_idx=0), nn.LSTM(8, 8, batch_first=True)
        self.head, self.back = nn.Linear(8, 4), back

    def forward(self, words, lengths):
        lengths, order = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(words[order]), lengths, batch_first=True)
        hidden = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]
        return self.head(hidden[order.argsort()] if self.back else hidden)


@pytest.mark.parametrize("back", [True, False])
def test_outputs_of_texts_that_were_sorted_by_length_are_put_back_in_order(back):
    lengths = torch.randint(3, 10, (16,)).index_fill(0, torch.tensor([5]), 9)
    padded = torch.arange(9) >= lengths[:, None]
    words, tags = torch.randint(1, 20, (16, 9)).masked_fill(padded, 0), torch.randint(4, (16, 9))
    found = unstuck.diagnose(Tagger(back), (words, lengths), tags.masked_fill(padded, -100), flat)
    assert [f.rule for f in found.findings if f.rule[2] in "67" or f.rule == "US506"] == ([] if back else ["US506"])


class OfOne(nn.Module):
    """A network for one sample, without a dimension for the batch."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.words, self.lstm, self.cell = kind, nn.Embedding(20, 8), nn.LSTM(8, 8), nn.GRUCell(8, 8)
        self.attention, self.last = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x):
        if self.kind == "image":
            return self.image(x)
        if self.kind == "features":
            return self.last(x).softmax(0)
        if self.kind == "steps":
            states = [self.cell(x[0])]
            for step in x[1:]:
                states.append(self.cell(step, states[-1]))
            return self.last(torch.stack(states))
        words = self.words(x)
        return self.last(
            self.lstm(words[:, None])[0][:, 0] if self.kind == "words" else self.attention(*[words] * 3)[0]
        )


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("image", torch.randn(3, 12, 12)),
        ("features", torch.randn(8)),
        ("steps", torch.randn(9, 8)),
        ("words", torch.arange(9)),
        ("attention", torch.arange(9)),
    ],
)
def test_the_parts_of_one_sample_are_no_samples(kind, inputs):
    assert findings(OfOne(kind), inputs) == []


def test_similarities_of_all_pairs_are_healthy():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 4)

        def forward(self, x):
            return self.first(x) @ self.first(x).T

    assert findings(Pairs(), torch.randn(64, 6)) == []


def test_a_model_that_refuses_a_part_of_the_batch_is_not_judged():
    adjacency = torch.rand(64, 64)
    assert findings(of(lambda net, h: adjacency @ h), torch.randn(64, 6)) == []


@pytest.mark.parametrize(
    ("causal", "shift", "expected"),
    [(False, 1, [("US606", "error")]), (True, 1, []), (True, 0, [("US606", "error")]), (False, 0, [])],
    ids=["no mask", "next tokens", "own tokens", "autoencoder"],
)
def test_a_model_must_not_see_the_tokens_that_it_predicts(causal, shift, expected):
    model = Encoder(causal=causal, pooled=False)
    assert findings(model, WORDS[:, :8], WORDS[:, shift : shift + 8], flat) == expected


def test_a_model_that_shifts_its_tokens_does_not_copy_them():
    model = Encoder(causal=True, pooled=False)
    forward, words = model.forward, WORDS[:, :8]
    model.forward = lambda words: forward(functional.pad(words[:, :-1], (1, 0)))
    assert findings(model, words, words, flat) == []


def with_ignored_end(outputs, targets):
    later = functional.pad(targets, (0, 1), value=-100)[:, 1:]
    return functional.cross_entropy(outputs.flatten(0, 1), later.flatten(), ignore_index=-100)


COPIED = [("US606", "error")]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda outputs, targets: flat(outputs[:, :-1], targets[:, 1:]), []),
        (with_ignored_end, []),
        (flat, COPIED),
        (lambda outputs, targets: flat(outputs[:, :-1], targets[:, :-1]), COPIED),
        (lambda outputs, targets: flat(outputs[targets > 4], targets[targets > 4]), COPIED),
        (lambda outputs, targets: functional.cross_entropy(outputs.mT, targets, ignore_index=0), COPIED),
    ],
    ids=["cut off", "ignored end", "unshifted", "without the last", "some tokens", "ignored padding"],
)
def test_a_loss_that_shifts_compares_outputs_with_the_next_tokens(loss, expected):
    words = torch.randint(5, 20, (32, 8), generator=torch.Generator().manual_seed(0))
    assert findings(Encoder(causal=True, pooled=False), words, words, loss) == expected


def test_a_loss_that_cannot_be_called_again_is_judged_by_its_recorded_calls():
    losses = iter([flat])
    words = WORDS[:, :8]
    assert findings(Encoder(causal=True, pooled=False), words, words, lambda *args: next(losses)(*args)) == COPIED


@pytest.mark.parametrize("like_the_first", [3, 32])
def test_samples_that_end_alike_are_not_compared(like_the_first):
    words = WORDS.clone()
    words[:like_the_first, 4:] = words[0, 4:]
    expected = [("US606", "error")] if like_the_first < len(words) else []
    assert findings(Encoder(pooled=False), words[:, :-1], words[:, 1:], flat) == expected
    assert findings(Encoder(pooled=False), words[:, :-1], words[:, :-1], flat) == []


def test_other_targets_are_not_compared_with_the_tokens():
    model = Encoder(pooled=False)
    assert findings(model, WORDS[:, :8], torch.randint(20, (32, 8)), flat) == []
    assert Severity.ERROR not in [f.severity for f in unstuck.diagnose(model, WORDS[:, :8]).findings]


HEADS = {
    "split": (lambda x: x.view(8, 2, 5, 8), lambda x: x.transpose(1, 2).reshape(8, 5, 16)),
    "merged": (lambda x: x.view(8, 5, 2, 8).transpose(1, 2), lambda x: x.reshape(8, 5, 16)),
    "right": (lambda x: x.view(8, 5, 2, 8).transpose(1, 2), lambda x: x.transpose(1, 2).reshape(8, 5, 16)),
}


class Heads(nn.Module):
    """Attention by hand: how heads are split and merged, and over which dimension the weights are normalised."""

    def __init__(self, split, merge, dim=-1):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 3)
        self.split, self.merge, self.dim = split, merge, dim

    def forward(self, x):
        q, k, v = (self.split(part.contiguous()) for part in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-2, -1) / 3).softmax(self.dim)
        return self.out(self.merge(weights @ v)).mean(1)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_split_and_merged_with_a_transpose(kind):
    expected = [] if kind == "right" else [("US506", "warning")]
    assert [f for f in findings(Heads(*HEADS[kind]), torch.randn(8, 5, 16)) if f[1] == "warning"] == expected


class Decoder(nn.Module):
    """Reads a sentence and what it has written so far."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)

    def forward(self, words):
        read, written = words
        return self.head(self.decoder(self.embedding(written), self.encoder(self.embedding(read))[1])[0])


def test_a_decoder_that_reads_the_targets_unshifted_copies_them():
    read, targets = WORDS, WORDS.flip(1)
    shifted = functional.pad(targets[:, :-1], (1, 0))
    assert findings(Decoder(), ((read, targets),), targets, flat) == [("US606", "error")]
    assert findings(Decoder(), ((read, shifted),), targets, flat) == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (lambda x: x.view(8, 6, 32), [("US506", "warning")]),
        (lambda x: x.permute(0, 3, 1, 2).reshape(8, 6, 32), []),
        (lambda x: x.flatten(1, 2).transpose(1, 2), []),
    ],
)
def test_columns_of_an_image_become_steps_by_a_permutation(steps, expected):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn = nn.Conv2d(1, 8, 3, padding=1), nn.GRU(32, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(steps(torch.relu(self.conv(x))))[0]

    assert findings(Reader(), torch.randn(8, 1, 4, 6)) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (lambda x: x.reshape(8, 9, 16), [("US506", "warning")]),
        (lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(8, 9, 16), []),
        (lambda x: x.reshape(8, 12, 12), []),  # rows
    ],
)
def test_patches_of_an_image_are_squares(pieces, expected):
    images = torch.randn(8, 1, 12, 12)
    layers = {"first": nn.Linear(pieces(images).shape[-1], 8), "last": nn.Linear(8, 4)}
    model = Forward(lambda net, x: net.last(net.first(pieces(x)) + 1).mean(1), **layers)
    assert findings(model, images) == expected


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (lambda x: x.reshape(8 * 5, 6, 16).mT, [("US506", "warning")]),
        (lambda x: x.permute(0, 2, 3, 4, 1).reshape(8 * 5, 16, 6), []),
        (lambda x: x.reshape(8 * 6, 5, 16).mT, []),  # each channel for itself
    ],
)
def test_frames_of_a_video_are_moved_beside_the_samples(frames, expected):
    layers = {"first": nn.Conv3d(1, 6, 1), "last": nn.Linear(frames(torch.empty(8, 6, 5, 4, 4)).shape[-1], 4)}
    model = Forward(lambda net, x: net.last(frames(net.first(x)) + 1), **layers)
    assert findings(model, torch.randn(8, 1, 5, 4, 4)) == expected


def test_windows_of_an_image_that_become_positions_are_no_columns():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layer = nn.Linear(3, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.layer(self.embed(x).view(8, 16, 16)).mean(1)

    assert findings(Windows(), torch.randn(8, 4, 4, 3)) == []


class Positions(nn.Module):
    """A code for each position, added over one dimension, and noise in evaluation mode."""

    def __init__(self, dim, noise=False):
        super().__init__()
        self.codes, self.head = nn.Parameter(torch.randn(64, 1, 6)), nn.Linear(6, 2)
        self.dim, self.noise = dim, noise

    def forward(self, x):
        codes = self.codes[: x.shape[self.dim]]
        x = x + (codes if self.dim == 0 else codes.transpose(0, 1))
        return self.head((x + torch.randn_like(x) if self.noise else x).mean(1))


@pytest.mark.parametrize(("dim", "noise", "expected"), [(0, False, MIXED), (1, False, []), (1, True, [])])
def test_positions_that_are_added_over_the_samples_are_found(dim, noise, expected):
    assert findings(Positions(dim, noise), torch.randn(64, 5, 6)) == expected


class Places(nn.Module):
    """A causal model of tokens whose positions are those of the samples, or of the tokens."""

    def __init__(self, dim):
        super().__init__()
        self.tokens, self.places, self.dim = nn.Embedding(20, 8), nn.Parameter(torch.randn(64, 8)), dim
        self.last = nn.Linear(8, 20)

    def forward(self, x):
        places = self.places[: x.shape[self.dim]].unsqueeze(1 - self.dim)
        return self.last((self.tokens(x) + places).cumsum(1).tanh())


@pytest.mark.parametrize(("dim", "expected"), [(0, MIXED), (1, [])])
def test_positions_of_the_samples_are_found_in_a_model_that_looks_back_only(dim, expected):
    assert findings(Places(dim), torch.randint(20, (32, 9))) == expected


class Decaying(nn.Linear):
    """A layer whose weight becomes smaller in each forward pass."""

    def forward(self, x):
        return functional.linear(x, self.weight.data.mul_(0.99), self.bias)


def trained(model, steps=20):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            functional.mse_loss(model(torch.randn(32, 6)), torch.randn(32, 1)).backward()
            optimizer.step()
    return monitor


def test_steps_of_weights_that_are_too_large_for_trials_are_asked_without_copies(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 64), nn.Softmax(0), nn.Linear(64, 64), Decaying(64, 1))
    monkeypatch.setattr("unstuck.trials.recording.BYTES", 4 * 32 * 7 * 4)  # four batches
    monkeypatch.setattr("unstuck.measure.again.MOST_COPIED", 0)
    monitor = trained(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    diagnosis = monitor.diagnosis(seconds=1)
    assert "larger than" in diagnosis.trials.missing
    assert "mixed" in diagnosis.measurement.answers
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_nothing_is_asked_after_too_long(monkeypatch):
    monkeypatch.setattr("unstuck.rules.question.MOST_SECONDS", -1.0)
    diagnosis = trained(nn.Sequential(nn.Linear(6, 8), nn.Softmax(0), nn.Linear(8, 1))).diagnosis(seconds=0)
    assert [gap.why for gap in diagnosis.gaps if "depend on" in gap.what] == ["running the step again takes too long"]


class Limited(nn.Module):
    """An embedding that shortens the rows that it reads, in place."""

    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(20, 16, max_norm=0.5), nn.Linear(16, 1)

    def forward(self, words):
        return self.last(self.words(words).mean(1))


def test_a_weight_that_its_function_limits_in_place_is_copied(monkeypatch):
    monkeypatch.setattr("unstuck.measure.again.MOST_COPIED", 0)
    model = Limited()
    optimizer = torch.optim.SGD(model.parameters(), 10.0)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            model(WORDS).square().mean().backward()
            optimizer.step()
    weights = model.words.weight.detach().clone()
    assert weights.norm(dim=1).max() > 0.51
    assert monitor.diagnosis(seconds=0).measurement.answers is not None
    assert torch.equal(weights, model.words.weight)


@pytest.mark.parametrize(
    ("labels", "expected"), [(torch.arange(32), []), (torch.zeros(32).long(), [("US506", "warning")])]
)
def test_candidates_of_the_same_batch_are_compared_on_purpose(labels, expected):
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.texts = nn.Linear(6, 8), nn.Linear(6, 8)

        def forward(self, x):
            texts = torch.cat([self.texts(x.flip(1)), self.texts(x.roll(1, 1))])  # of which the second half is wrong
            return self.queries(x) @ texts.T

    assert findings(Towers(), torch.randn(32, 6), labels, functional.cross_entropy) == expected


class Forecaster(nn.Module):
    """The next number after each of a series."""

    def __init__(self, causal):
        super().__init__()
        self.inlet, self.outlet, self.left = nn.Conv1d(1, 8, 3), nn.Conv1d(8, 1, 1), 2 if causal else 1

    def forward(self, series):
        padded = functional.pad(series[:, None], (self.left, 2 - self.left))
        return self.outlet(torch.tanh(self.inlet(padded)))[:, 0]


def test_a_forecast_that_sees_the_next_number_is_named():
    series = torch.randn(32, 17).cumsum(1)
    of_states = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))  # delayed coordinates of one state
    for model, expected in ((Forecaster(False), [("US606", "error")]), (Forecaster(True), []), (of_states, [])):
        assert findings(model, series[:, :-1].clone(), series[:, 1:].clone(), functional.mse_loss) == expected
    of_the_last = lambda outputs, targets: functional.mse_loss(outputs[:, -1], targets[:, -1])  # noqa: E731
    assert findings(Forecaster(False), series[:, :-1].clone(), series[:, 1:].clone(), of_the_last) == []


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("classes", [1, 2])
def test_images_and_masks_that_are_flipped_apart_are_named(apart, classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, classes, 3, padding=1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def flipped(x, chosen):
        return torch.where(chosen[:, None, None, None], x.flip(-1), x)

    with unstuck.Monitor(model, every=10, trials=True) as monitor:
        for _ in range(60):
            masks = functional.interpolate((torch.rand(32, 1, 4, 4) > 0.7).float(), scale_factor=2)
            images = masks + 0.3 * torch.randn(32, 1, 8, 8)
            first, second = torch.rand(2, 32) < 0.5
            images, masks = flipped(images, first), flipped(masks, second if apart else first)
            outputs = model(images)
            optimizer.zero_grad()
            if classes == 1:
                functional.binary_cross_entropy_with_logits(outputs, masks).backward()
            else:
                functional.cross_entropy(outputs, masks[:, 0].long()).backward()
            optimizer.step()
    found = [finding.message for finding in monitor.diagnosis(seconds=0).findings if finding.rule == "US704"]
    assert [("mirror images" in message) for message in found] == ([True] if apart else [])


def fit(model, steps, batch, loss=flat, rate=1e-3):
    """What is found after the training of a model on a new batch at each step."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    with unstuck.Monitor(model, every=steps // 10, trials=True) as monitor:
        for _ in range(steps):
            inputs, targets = batch()
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    return {f.rule: f.message for f in monitor.diagnosis(seconds=0).findings if f.severity != "note"}


@pytest.mark.parametrize(
    ("named", "columns", "options"),
    [
        (True, 0, {}),
        (True, 0, {"pooled": False}),
        (False, 0, {"positions": True}),
        (False, 0, {"causal": True}),
        (False, 20 * torch.arange(8), {}),
    ],
    ids=["pooled", "for each token", "positions", "causal", "columns of a table"],
)
def test_a_transformer_that_learns_nothing_without_the_order_of_its_tokens_is_named(named, columns, options):
    model = Encoder(**{"positions": False} | options)
    model.embedding = nn.Embedding(160, 16)

    def batch():
        words = torch.randint(20, (32, 8))
        return words + columns, (words[:, 0] if model.pooled else words.flip(1))

    assert ("order" in fit(model, 101, batch).get("US703", "")) is named


def test_a_transformer_that_learns_from_a_set_of_tokens_is_not_named():
    def batch():
        words = torch.randint(2, (32, 8))
        return words, (words.sum(1) > 4).long()

    assert "US703" not in fit(Encoder(positions=False), 150, batch, rate=1e-2)


@pytest.mark.parametrize(("moved", "named"), [("view", True), ("permute", False)])
def test_images_whose_colours_stand_side_by_side_are_named(moved, named):
    def batch():
        x = torch.rand(8, 1, 1, 3) + 0.1 * torch.randn(8, 12, 12, 3).cumsum(2)
        return (x.view(8, 3, 12, 12) if moved == "view" else x.permute(0, 3, 1, 2)), torch.randint(4, (8,))

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4))
    assert ("US506" in fit(model, 20, batch)) is named
