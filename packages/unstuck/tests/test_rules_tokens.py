"""US301, US309, US505, US606, US701 to US704, US707: what a recorded step of a modern training depends on."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck

SIZE, LENGTH, SAMPLES, PAD, HIDDEN = 24, 12, 32, 1, 2


class Language(nn.Module):
    """A small transformer for tokens, with a mask of what each may see."""

    def __init__(self, causal=True, classes=SIZE, pooled=False):
        super().__init__()
        self.tokens, self.places = nn.Embedding(SIZE, 16), nn.Embedding(LENGTH, 16)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, classes)
        self.causal, self.pooled = causal, pooled

    def forward(self, ids, padded=None, places=None, blocks=None):
        places = torch.arange(ids.shape[1]).expand_as(ids) if places is None else places
        x = self.tokens(ids) + self.places(places)
        mask = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool() if self.causal else None
        if blocks is not None:
            mask = (mask | (blocks[:, :, None] != blocks[:, None])).repeat_interleave(2, 0)
        x = x + self.attention(x, x, x, key_padding_mask=padded, attn_mask=mask)[0]
        if not self.pooled:
            return self.head(x)
        kept = torch.ones_like(ids) if padded is None else ~padded
        return self.head((x * kept[..., None]).sum(1) / kept.sum(1, keepdim=True))


def words(low=3, samples=SAMPLES, length=LENGTH):
    return torch.randint(low, SIZE, (samples, length))


def with_padding():
    """Rows that end with padding, and where."""
    padded = torch.arange(LENGTH) >= torch.randint(5, LENGTH - 2, (SAMPLES, 1))
    return words().masked_fill(padded, PAD), padded


def flat(logits, labels):
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def codes(model, inputs, labels, loss=flat):
    found = unstuck.diagnose(model, inputs, labels, loss, trials=False).findings
    mine = ("US309", "US505", "US606", "US701", "US702", "US703", "US704", "US707")
    return [finding.rule for finding in found if finding.rule in mine and finding.severity != "note"]


@pytest.mark.parametrize("samples", [SAMPLES, LENGTH - 2, LENGTH - 1])
@pytest.mark.parametrize(("shift", "expected"), [(1, []), (2, ["US701"])])
def test_labels_that_are_shifted_twice_are_named(shift, expected, samples):
    """Also if there are as many samples as positions."""
    ids = words(samples=samples)
    assert codes(Language(), ids[:, : LENGTH - shift], ids[:, shift:]) == expected


def test_a_loss_of_ignored_labels_only_is_named():
    ids = words()
    assert "US701" in codes(Language(), ids, torch.full_like(ids, -100))


@pytest.mark.parametrize(("keeps_end", "expected"), [(True, []), (False, ["US701"])])
def test_an_end_token_that_is_also_the_padding_has_to_be_a_label(keeps_end, expected):
    ids, padded = with_padding()
    later, ended = ids[:, 1:], padded[:, 1:]
    first = ended & (ended.cumsum(1) == 1)
    labels = later.masked_fill(ended & ~first if keeps_end else ended, -100)
    assert codes(Language(), ids[:, :-1], labels) == expected


@pytest.mark.parametrize(("attended", "expected"), [(0, []), (1, ["US701"])])
def test_padding_that_a_mask_hides_everywhere_is_no_end_token(attended, expected):
    ids, padded = with_padding()
    hidden = padded & (padded.cumsum(1) > attended)
    labels = ids[:, 1:].masked_fill(padded[:, 1:], -100)
    assert codes(Language(), {"ids": ids[:, :-1], "padded": hidden[:, :-1]}, labels) == expected


@pytest.mark.parametrize(("ignored", "expected"), [(True, []), (False, ["US702"])])
def test_padding_in_the_loss_is_named(ignored, expected):
    ids, padded = with_padding()
    ids = ids.where(~(padded & (padded.cumsum(1) == 1)), HIDDEN)  # the end of each text
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, -100) if ignored else ids[:, 1:]
    assert codes(Language(), ids[:, :-1], labels) == expected


@pytest.mark.parametrize(("masked", "expected"), [(True, []), (False, ["US702"])])
def test_padding_that_changes_an_answer_is_named(masked, expected):
    ids, padded = with_padding()
    inputs = {"ids": ids, "padded": padded} if masked else ids
    model = Language(causal=False, pooled=True, classes=4)
    assert codes(model, inputs, torch.randint(4, (SAMPLES,)), functional.cross_entropy) == expected


@pytest.mark.parametrize(("apart", "expected"), [(True, []), (False, ["US606"])])
def test_documents_of_a_packed_row_must_not_see_each_other(apart, expected):
    ids, places = words(), torch.arange(LENGTH).remainder(LENGTH // 2).expand(SAMPLES, -1)
    inputs = {"ids": ids, "places": places}
    if apart:
        inputs["blocks"] = (places == 0).cumsum(1)
    labels = functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert codes(Language(), inputs, labels) == expected


@pytest.mark.parametrize(("only_masked", "expected"), [(True, []), (False, ["US606"])])
def test_labels_of_tokens_that_the_model_sees_are_named(only_masked, expected):
    ids = words()
    hidden = torch.rand(ids.shape) < 0.3
    labels = ids.masked_fill(~hidden, -100) if only_masked else ids
    assert codes(Language(causal=False), ids.masked_fill(hidden, HIDDEN), labels) == expected


@pytest.mark.parametrize(
    ("inputs_hidden", "labels_hidden", "expected"),
    [(True, False, []), (False, False, ["US606"]), (True, True, ["US606"])],
)
def test_words_that_are_not_hidden_and_labels_that_are_the_mask_are_named(inputs_hidden, labels_hidden, expected):
    ids, hidden = words(), torch.rand(SAMPLES, LENGTH) < 0.3
    masked = ids.masked_fill(hidden, HIDDEN)
    labels = (masked if labels_hidden else ids).where(hidden, -100)
    assert codes(Language(causal=False), masked if inputs_hidden else ids, labels)[:1] == expected


@pytest.mark.parametrize(("inverted", "expected"), [(True, ["US701"]), (False, [])])
def test_labels_that_are_padding_only_are_named(inverted, expected):
    ids, padded = with_padding()
    ids = ids.where(~(padded & (padded.cumsum(1) == 1)), HIDDEN)
    labels = ids[:, 1:].where((ids[:, 1:] == PAD) == inverted, -100)
    found = codes(Language(), {"ids": ids[:, :-1], "padded": padded[:, :-1]}, labels)
    assert [code for code in found if code == "US701"] == expected


def gathered(logits, ids, shift=1, counted=None):
    """Minus the logarithms of the tokens' probabilities, as DPO sums them."""
    odds = logits[:, : LENGTH - shift].log_softmax(-1).gather(-1, ids[:, shift:, None])[..., 0]
    return -(odds if counted is None else odds * counted[:, shift:]).sum(1).mean()


@pytest.mark.parametrize(("shift", "expected"), [(1, []), (0, ["US606"]), (2, ["US701"])])
def test_gathered_probabilities_have_places_as_the_labels_of_cross_entropy(shift, expected):
    ids = words()
    assert codes(Language(), ids, ids, lambda logits, ids: gathered(logits, ids, shift)) == expected


def test_a_copied_input_is_named_also_if_all_texts_begin_alike():
    ids = words()
    ids[:, 0] = 2
    assert codes(Language(), ids, ids) == ["US606"]


@pytest.mark.parametrize(("masked", "expected"), [(True, []), (False, ["US702"])])
def test_padding_among_gathered_probabilities_is_named(masked, expected):
    ids, padded = with_padding()
    ids = ids.where(~(padded & (padded.cumsum(1) == 1)), HIDDEN)
    assert (
        codes(Language(), ids, ids, lambda logits, ids: gathered(logits, ids, 1, ids != PAD if masked else None))
        == expected
    )


@pytest.mark.parametrize(
    ("rows", "answered", "expected"), [(24, False, ["US702"]), (8, False, ["US702"]), (8, True, [])]
)
def test_words_that_answers_repeat_are_no_padding(rows, answered, expected):
    """As in answers of a policy that has learned to repeat what a question asks for."""
    ids = words()
    ids = ids.where(ids != PAD, PAD + 1)
    for row in range(rows, SAMPLES if answered else rows):
        ids[row, -3:] = row // 4 + 3
    for row in range(rows):
        ids[row, -3 - row % 2 :], ids[row, -4 - row % 2] = PAD, HIDDEN
    assert codes(Language(), ids, ids, lambda logits, ids: gathered(logits, ids, 1)) == expected


class Translator(nn.Module):
    """An encoder, and a decoder that is told the mean of what it read."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(SIZE, 16), Language()

    def forward(self, source, target):
        logits = self.decoder(target)
        return logits + self.decoder.head(self.encoder(source).mean(1, keepdim=True))


@pytest.mark.parametrize(("started", "expected"), [(True, []), (False, ["US701"])])
def test_a_decoder_that_never_starts_is_named(started, expected):
    source, target = words(), words()
    begun = torch.cat([torch.full((SAMPLES, 1), PAD), target[:, :-1]], 1)
    inputs, labels = (begun, target) if started else (target[:, :-1], target[:, 1:])
    assert codes(Translator(), {"source": source, "target": inputs}, labels) == expected


@pytest.mark.parametrize(("counted", "expected"), [(True, ["US707"]), (False, [])])
def test_padding_at_the_left_that_moves_the_places_is_named(counted, expected):
    ids, padded = (x.flip(1) for x in with_padding())
    places = torch.arange(LENGTH).expand_as(ids) if counted else ((~padded).cumsum(1) - 1).clamp(min=0)
    labels = ids[:, 1:].masked_fill(padded[:, 1:], -100)
    inputs = {"ids": ids[:, :-1], "padded": padded[:, :-1], "places": places[:, :-1]}
    assert [code for code in codes(Language(), inputs, labels) if code == "US707"] == expected


@pytest.mark.parametrize(("new", "frozen", "expected"), [(1e-3, True, ["US505"]), (1e-3, False, []), (1.0, True, [])])
def test_frozen_rows_of_new_tokens_are_named(new, frozen, expected):
    model, ids = Language(), words()
    with torch.no_grad():
        model.tokens.weight[-3:] = model.tokens.weight[:-3].mean(0) + new * torch.randn(3, 16)
    model.tokens.requires_grad_(not frozen)
    assert codes(model, ids[:, :-1], ids[:, 1:]) == expected


class Prefix(Language):
    """A causal model that reads its first six tokens in both directions."""

    def __init__(self, both):
        super().__init__()
        self.both = both

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        mask = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
        mask[:6, :6] = False
        return self.head(x + self.attention(x, x, x, attn_mask=mask if self.both else mask & False)[0])


@pytest.mark.parametrize(("both", "expected"), [(True, []), (False, ["US606"])])
def test_a_prefix_without_labels_may_be_read_in_both_directions(both, expected):
    """More than half of the row is in the prefix."""
    ids = words(length=8)
    labels = functional.pad(ids[:, 1:], (0, 1), value=-100)
    labels[:, :5] = -100
    assert codes(Prefix(both), ids, labels) == expected


@pytest.mark.parametrize(("first", "last"), [(3, 6), (2, 2), (0, 11), (9, 10)])
def test_a_token_that_is_seen_too_early_is_named_wherever_labels_are(first, last):
    class Ahead(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.conv, self.head = nn.Embedding(SIZE, 16), nn.Conv1d(16, 16, 2), nn.Linear(16, SIZE)

        def forward(self, ids):
            x = self.tokens(ids).mT
            return self.head(self.conv(functional.pad(x, (0, 1))).mT)

    ids = words()
    labels = functional.pad(ids[:, 1:], (0, 1), value=-100)
    places = torch.arange(LENGTH)
    labels[:, (places < first) | (places > last)] = -100
    assert codes(Ahead(), ids, labels) == ["US606"]


class Judge(Language):
    """A causal model that answers at one of its tokens."""

    def __init__(self, read):
        super().__init__(classes=4)
        self.read = read

    def forward(self, ids):
        return super().forward(ids)[:, self.read]


@pytest.mark.parametrize(("read", "expected"), [(0, True), (-1, False)])
def test_an_answer_at_the_first_token_of_a_causal_model_is_named(read, expected):
    def batch(step):
        ids = words()
        return (ids,), ids[:, -1] % 4

    assert ("US703" in trained(Judge(read), batch, 20, functional.cross_entropy)) == expected


@pytest.mark.parametrize(("read", "expected"), [(0, True), (-1, False)])
def test_vectors_of_a_first_token_that_all_texts_have_are_named(read, expected):
    def batch(step):
        ids = words()
        ids[:, 0] = 3
        return (ids,), torch.arange(SAMPLES // 2)

    def contrast(vectors, targets):
        one, other = functional.normalize(vectors, dim=-1).chunk(2)
        return functional.cross_entropy(one @ other.T / 0.1, targets)

    assert ("US703" in trained(Judge(read), batch, 20, contrast)) == expected


class Conditional(nn.Module):
    """Two inputs, of which the second may be left alone, lost or hidden."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.second, self.last = kind, nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x, condition, count=None):
        h = self.first(x)
        if self.kind == "hidden":
            h = h + self.second(condition * 0)
        elif self.kind != "unread":
            h = h + self.second(condition.as_subclass(torch.Tensor) if self.kind == "as a subclass" else condition)
        return self.last(h.tanh())


@pytest.mark.parametrize(("kind", "expected"), [("unread", ["warning"]), ("read", []), ("as a subclass", [])])
def test_inputs_that_nobody_reads_are_named(kind, expected):
    """A number beside the samples, such as how many tokens a batch has, is no input."""
    inputs = torch.randn(SAMPLES, 6), torch.randn(SAMPLES, 3), torch.tensor(SAMPLES)
    targets = torch.randn(SAMPLES, 2)
    findings = unstuck.diagnose(Conditional(kind), inputs, targets, functional.mse_loss, trials=False).findings
    found = [finding for finding in findings if finding.rule == "US703"]
    assert [finding.severity for finding in found] == expected
    assert not any(finding.shown for finding in found)  # nothing had to run again
    model = Conditional(kind)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        optimizer = torch.optim.Adam(model.parameters())
        functional.mse_loss(model(x=inputs[0], condition=inputs[1]), targets).backward()
        optimizer.step()
    by_name = monitor.diagnosis(seconds=0).findings
    assert [finding.severity for finding in by_name if finding.rule == "US703"] == expected


@pytest.mark.parametrize(
    ("targets", "expected"), [(torch.full((SAMPLES, 2), 3.0), "note"), (torch.randn(SAMPLES, 2), "warning")]
)
def test_a_model_that_reads_no_input_is_named_aloud_if_it_learns_nothing(targets, expected):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(SAMPLES, 4)), nn.Parameter(torch.zeros(4, 2))

        def forward(self, x):
            return (self.left @ self.right).mean(0, keepdim=True).expand(SAMPLES, -1)

    model, x = Own(), torch.randn(SAMPLES, 6)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(120):
            optimizer.zero_grad()
            functional.mse_loss(model(x), targets).backward()
            optimizer.step()
    (found,) = [f for f in monitor.diagnosis(seconds=0).findings if f.rule == "US703"]
    assert found.severity == expected


def trained(model, batch, steps=120, loss=functional.mse_loss, rate=1e-2):
    """Codes of the findings of a training."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for step in range(steps):
            inputs, targets = batch(step)
            optimizer.zero_grad()
            loss(model(*inputs), targets).backward()
            optimizer.step()
    return [finding.rule for finding in monitor.diagnosis(seconds=0).findings if finding.severity != "note"]


def pairs(step):
    torch.manual_seed(step % 20)
    x, condition = torch.randn(SAMPLES, 6), torch.randn(SAMPLES, 3)
    return (x, condition), x[:, :2] + condition[:, :2]


@pytest.mark.parametrize(("kind", "expected"), [("hidden", True), ("read", False)])
def test_an_input_without_effect_is_named_in_a_training(kind, expected):
    assert ("US703" in trained(Conditional(kind), pairs)) == expected


def test_the_clock_of_an_environment_that_steps_between_two_passes_needs_no_effect():
    torch.manual_seed(0)
    policy, clock, state = nn.Linear(6, 6), torch.zeros(SAMPLES), torch.rand(SAMPLES, 6)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    with unstuck.Monitor(policy, every=5, trials=True) as monitor:
        for _ in range(120):
            loss = 0.0
            for _ in range(3):
                actions = policy(state)
                loss = loss + (actions + state).square().mean()
                state = state + 0.1 * actions.detach() + torch.rand(SAMPLES, 6)
                clock += 1
                over = (state[:, 0] > 3) | (clock >= 1000)
                state[over] = clock[over] = 0.0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert "US703" not in [finding.rule for finding in monitor.diagnosis(seconds=0).findings]


@pytest.mark.parametrize("shuffled", [False, True])
def test_targets_of_other_samples_that_fit_as_well_are_named(shuffled):
    def batch(step):
        (x, condition), targets = pairs(step)
        return (x, condition), torch.randn_like(targets) if shuffled else targets

    torch.manual_seed(0)
    assert ("US704" in trained(Conditional("read"), batch)) == shuffled


@pytest.mark.parametrize(
    ("drawn", "generates", "named"), [(torch.randn, True, False), (torch.randn, False, True), (torch.rand, True, True)]
)
def test_the_noise_of_a_generator_needs_no_partner(drawn, generates, named):
    """Noise is drawn anew in every step, and the network learns from its other input."""

    def batch(_step):
        x = torch.rand(SAMPLES, 6)
        return (x, drawn(SAMPLES, 3)), 4 * x[:, :2] + torch.randn(SAMPLES, 2)

    def adversarial(outputs, targets):
        far = (outputs - targets).square().mean(1)
        return functional.binary_cross_entropy_with_logits(1 - far, torch.ones(SAMPLES))

    torch.manual_seed(0)
    loss = adversarial if generates else functional.mse_loss
    assert ("US704" in trained(Conditional("read"), batch, 300, loss)) == named


def test_one_number_for_each_sample_may_be_the_input_without_a_partner():
    class Timed(nn.Linear):
        def forward(self, x, time):
            return super().forward(torch.cat([x, time[:, None]], 1))

    def batch(_step):
        x = torch.rand(2 * SAMPLES, 6)
        return (x, torch.randn(2 * SAMPLES)), 4 * x[:, :2] + torch.randn(2 * SAMPLES, 2)

    torch.manual_seed(0)
    assert "US704" in trained(Timed(7, 2), batch, steps=300)


class Siamese(nn.Module):
    """SimSiam: a prediction of each view is compared with the other view."""

    def __init__(self):
        super().__init__()
        self.encoder, self.predictor = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, one, other):
        one, other = self.encoder(one), self.encoder(other)
        return self.predictor(one), other


@pytest.mark.parametrize(("stops", "expected"), [(True, []), (False, ["US309"])])
def test_a_prediction_is_compared_with_an_output_without_a_gradient(stops, expected):
    def loss(outputs, _):
        predicted, other = outputs
        return -functional.cosine_similarity(predicted, other.detach() if stops else other).mean()

    x = torch.randn(SAMPLES, 6)
    assert codes(Siamese(), (x, x + torch.randn_like(x)), torch.zeros(SAMPLES), loss) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_that_bfloat16_rounds_away_are_named(dtype):
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).to(dtype)
    data = torch.randn(64, 6).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()
    found = [finding.message for finding in monitor.diagnosis().findings if finding.rule == "US301"]
    assert [("half precision" in message) for message in found] == ([True] if dtype == torch.bfloat16 else [])


@pytest.mark.parametrize(("steps", "expected"), [(40, []), (400, ["warning"])])
@pytest.mark.parametrize("epoch", [1, 10])
def test_a_warm_up_that_takes_the_whole_training_is_named(steps, expected, epoch):
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step // epoch + 1) * epoch / steps))
    data, targets = torch.randn(64, 6), torch.randn(64, 2)
    with unstuck.Monitor(model, every=5) as monitor:
        for _ in range(100):
            optimizer.zero_grad()
            functional.mse_loss(model(data), targets).backward()
            optimizer.step()
            warm_up.step()
    assert [f.severity for f in monitor.diagnosis().findings if "still rises" in f.message] == expected
