"""Outputs depend on other samples, or on the tokens that they have to predict."""

import math

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Effect
from unstuck.measure.noise import DROWNED
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.standstill import PATIENT_MEASUREMENTS, PATIENT_STEPS
from unstuck.wording import listed, named, number, percent

SEPARATE = (
    "Check dimensions: `batch_first=True` in attention and recurrent layers, positions added along the sequence, "
    "transpose instead of view, a softmax over the last dimension. Nothing to do if the samples are the steps of one "
    "sequence, or one set."
)
TRANSPOSE = "Use `transpose` or `permute`, which move the numbers, in place of `view` or `reshape`."
OVER_FEATURES = "Use `dim=-1`."
TIME_FIRST = "Nothing to do if dimension 0 of the inputs counts time steps; else set `batch_first=True`."
MASK = "Give the attention a causal mask (`is_causal=True`); a choice among all tokens (top-k) sees later ones, too."
SHIFT_ONCE = (
    "Shift the labels once: models of Transformers shift them in their loss, and take labels that equal the inputs."
)
START = (
    "Give T5 and its like `labels` only, which they shift themselves, or begin `decoder_input_ids` with "
    "`decoder_start_token_id`."
)
KEEP_LABELS = "Check what sets the labels to -100, and the length at which samples are cut off."
KEEP_END = (
    "Ignore the padding only behind the first end token, or use another token for padding; nothing to do if the texts "
    "have no end."
)
IGNORE_PADDING = "Ignore the padding in the loss: `labels[attention_mask == 0] = -100`, or `ignore_index`."
MASK_PADDING = "Give the model the attention mask, and let it use it; causal models want the padding at the right."
COUNT_PLACES = (
    "Give the model `position_ids` that begin with 0 in each text: `(attention_mask.cumsum(1) - 1).clamp(min=0)` "
    "behind padding at the left, or one `arange` for each packed sample."
)
DENOISE = "Let the target be the noise, the clean sample, or the velocity."
ROUNDED = "Check for a division of whole numbers (`//`) or a conversion that rounds to 0, as of times from 0 to 1."
USE = "Check where it goes: it may be overwritten, multiplied by 0, or sliced away."
PASS_ON = (
    "Check what the data loader and the processor return (`pixel_values`): is something missing, or replaced by 0?"
)
CHECK_PAIRS = "Check that samples and targets belong together, what the network reads, and the learning rate."
MASKED_ONLY = "Set the labels of tokens that are not masked to -100."
INVERT_MASK = "Invert the mask of the loss: let it count the hidden patches or tokens."
SEPARATE_DOCUMENTS = "Give the attention a mask of blocks, one for each document, or their lengths."
ADD_POSITIONS = "Add positions: embeddings of places, or rotations along the dimension of the tokens."
READ_LAST = "In a causal model the first token sees nothing else: read the last token that is not padding."
ADD_TERM = "Add it to the loss, or compute it without gradients if it is for information only."
COPY = (
    "Check what both sides are: a reference (`ref_model`) or a teacher is another network, or a copy made before the "
    "training (`copy.deepcopy`, `disable_adapter()`), and chosen and rejected answers differ where the mask counts."
)
AUGMENT = "Draw the random augmentation for each view anew, or keep dropout on where it makes the views."
KEEP_OLD = "Compute the old log-probabilities once for each batch of samples, under `torch.no_grad()`, and keep them."
GROUP = "Repeat each prompt in consecutive rows (`repeat_interleave`), and view the rewards as [prompts, generations]."
REACH_NOISE = (
    "Let the data vanish at the last time: more steps or larger betas, and the product of all alphas; nothing to do if "
    "nothing is sampled from noise."
)
DRAW_NORMAL = "Use `torch.randn_like` in place of `torch.rand_like`."
SCALE_DATA = "Scale the data, or the latents of an autoencoder, to a standard deviation of about 1."
COVERED = 0.9
"""Correlation with the noise where there is most of it: usual schedules have more than 0.99."""
MAY_REST = ("mask", "type_ids", "labels", "cache", "position")
"""Parts of the names of inputs that a model may leave alone."""
VISIBLE = 0.5
PADDED_LABELS, UNRELATED = 0.02, 0.02
NOT_TRAINED = ("US301", "US302", "US303", "US306", "US309", "US401", "US501", "US502", "US505")
OTHER_CAUSES = ("US506", "US601", "US606", "US609", "US702", "US709")
"""Rules that explain why a network learns nothing from its samples."""
SAME, MOVES = 1e-6, 1e-4
"""A loss that changes by less of itself knows both sides of a pair by one input; a step that moves a weight by more."""
SHIFT = "Let the target at each position be the next token: `inputs[:, :-1]` and `inputs[:, 1:]`."


@rule("US506", "samples are mixed", remedy=SEPARATE, mistake=True)
def mixed_samples(evidence: Evidence) -> Found | None:
    """The answer for a sample changes with the company that it is in: training and use are not the same."""
    latest = evidence.latest
    over_samples = [
        x.name
        for x in latest.layers
        if x.softmax_dim == 0 and not x.gate and len(x.shape) > 1 and x.shape[0] == latest.samples > 1
    ]
    if over_samples:
        text = _(
            "{name} is a softmax over dimension 0, which counts the samples: its outputs for one sample depend on all "
            "others.",
            name=named(over_samples[0]),
        )
        return Found(tuple(over_samples), 1.0, 0.0, text, OVER_FEATURES)
    if latest.swaps:
        first = latest.swaps[0]
        text = _(
            "{name} reads a view of {before} as {after}: the numbers stay in their order, so that the axes are mixed.",
            name=named(first.layer), before=list(first.before), after=list(first.after),
        )  # fmt: skip
        return Found(tuple(swap.layer for swap in latest.swaps), len(latest.swaps), 0.0, text, TRANSPOSE)
    depends = evidence.depends
    if depends.wrong_axis:
        text = _(
            "{call} reads probabilities that sum to 1 over another dimension than the one that it takes them for.",
            call=depends.wrong_axis,
        )
        return shown(text, OVER_FEATURES)
    if not depends.samples:
        return None
    text = _("The output for a sample changes with the other samples of the batch or its place among them.")
    if depends.positions is False:
        return shown(text, TIME_FIRST, Severity.NOTE)
    return shown(text)


@rule("US606", "targets are visible", severity=Severity.ERROR, remedy=MASK, hidden_by=("US506",), mistake=True)
def visible_targets(evidence: Evidence) -> Found | None:
    """The network copies what it should predict: the loss falls to 0, and the generated text is useless."""
    found = evidence.depends
    if found.shift == 1 and found.later:
        text = _(
            "The targets are the next tokens of the inputs, and outputs depend on later tokens: the model sees what it "
            "has to predict."
        )
        return shown(text)
    if found.copies:
        text = _(
            "The targets are the tokens of the inputs at the same positions, and outputs depend on earlier tokens "
            "only: the model copies its input."
        )
        return shown(text, SHIFT)
    if found.own_input:
        text = _("The targets are the very numbers that the model reads beside a time: it copies its input.")
        return shown(text, DENOISE)
    if (found.visible or 0.0) > VISIBLE:
        share = found.visible or 0.0
        text = _(
            "{share} % of the labels are the tokens at the same positions, which the model sees.", share=percent(share)
        )
        return Found((), share, VISIBLE, text, MASKED_ONLY, Severity.WARNING, shown=True)
    if found.seen_only:
        text = _("The loss counts only what the model is shown of its input, and never what is hidden from it.")
        return shown(text, INVERT_MASK, Severity.WARNING)
    if found.documents:
        return shown(_("Outputs depend on other documents of the same row."), SEPARATE_DOCUMENTS, Severity.WARNING)
    return None


@rule("US701", "labels at the wrong place", severity=Severity.ERROR, remedy=SHIFT_ONCE, mistake=True)
def misplaced_labels(evidence: Evidence) -> Found | None:
    """The network learns to predict another token than it is asked for, or nothing."""
    found = evidence.depends
    if found.ignored == 1:
        return shown(_("Every label is ignored: the loss is computed from nothing."), KEEP_LABELS)
    if found.shift == 2:
        return shown(_("The labels are the tokens after the next ones: they were shifted twice."))
    if found.unstarted:
        text = _(
            "The decoder begins with the first word of the target, and no label is that word: it does not learn to "
            "start."
        )
        return shown(text, START, Severity.WARNING)
    if found.single:
        text = _("All labels that count are the same token, and the others are ignored.")
        return shown(text, KEEP_LABELS, Severity.WARNING)
    if found.endless:
        text = _("The token that the rows end with is never a label: the model does not learn to stop.")
        return shown(text, KEEP_END, Severity.WARNING)
    return None


@rule("US702", "padding counts", remedy=MASK_PADDING, hidden_by=("US401",), mistake=True)
def padding(evidence: Evidence) -> Found | None:
    """Padding is in the loss, or changes the outputs of a sample with the length of the others."""
    found = evidence.depends
    if (found.padded_labels or 0.0) > PADDED_LABELS:
        share = found.padded_labels or 0.0
        text = _("{share} % of the labels that count belong to padding.", share=percent(share))
        return shown(text, IGNORE_PADDING, value=share)
    if found.padding:
        text = _("Outputs of the tokens of a sample depend on its padding.")
        recurrent = any(layer.steps is not None for layer in evidence.layers)  # which reads it at the end
        return shown(text, MASK_PADDING, Severity.NOTE if recurrent else None)
    return None


@rule("US703", "an input without effect", remedy=USE, hidden_by=("US401",), mistake=True)
def without_effect(evidence: Evidence) -> Found | None:
    """The network has learned to do without an input, or cannot see it."""
    found = evidence.depends
    names = [name for name in found.unread if not any(word in name for word in MAY_REST)]
    if names:
        return Found((), len(names), 0, _("No call reads the model's input {names}.", names=listed(names)))
    if found.zero_input:
        text = _("The input of shape {shape} is 0 in all recorded steps.", shape=list(found.zero_input))
        return Found((), 0.0, 0.0, text, ROUNDED if math.prod(found.zero_input[1:]) == 1 else PASS_ON)
    if found.same_places:
        text = _("The outputs are the same at all places of a sample that the loss counts, and the targets are not.")
        return shown(text, ADD_POSITIONS)
    if found.order_of_patches is False:
        return shown(_("The outputs do not depend on the order of the patches of an image."), ADD_POSITIONS)
    if found.first_only:
        return shown(_("The outputs depend on the first token of a sample and on no other."), READ_LAST)
    if found.order is False:
        return shown(_("The outputs do not depend on the order of earlier tokens."), ADD_POSITIONS)
    if found.lost_places:
        text = _(
            "Queries and keys of the first attention know nothing of positions, although {what} is added or multiplied "
            "in.",
            what=found.lost_places,
        )  # fmt: skip
        return shown(text, ADD_POSITIONS)
    for effect in found.effects:
        if effect.targets or effect.moves:
            continue
        text = _(
            "The outputs do not depend on the input of shape {shape}, which {reader} reads: they are the same with "
            "those of other samples.",
            shape=list(effect.shape), reader=_reader(effect),
        )  # fmt: skip
        return shown(text)
    if found.unused:
        text = _(
            "The model computes a number with a gradient, and the loss does not take it: {names}.",
            names=listed(found.unused),
        )
        return Found((), len(found.unused), 0, text, ADD_TERM, Severity.NOTE)
    return None


@rule("US704", "unrelated to the samples", remedy=CHECK_PAIRS, hidden_by=(*NOT_TRAINED, *OTHER_CAUSES), signal=True)
def unrelated(evidence: Evidence) -> Found | None:
    """The network answers all samples alike, or learns from pairs that do not belong together."""
    effects = evidence.depends.effects
    for effect in effects:
        change = abs(effect.loss_of_others - effect.loss) / abs(effect.loss) if effect.loss else math.inf
        if (evidence.latest.step or 0) < PATIENT_STEPS - 1 or not SAME < change < UNRELATED or not effect.moves:
            continue
        what = _("the targets") if effect.targets else _("the input of shape {shape}", shape=list(effect.shape))
        text = _(
            "The loss is {loss}, and {others} with {what} of other samples: the network has learned nothing from them.",
            loss=number(effect.loss), others=number(effect.loss_of_others), what=what,
        )  # fmt: skip
        return Found((), change, UNRELATED, text, shown=True)
    return None


@rule("US705", "compared with itself", remedy=COPY, mistake=True)
def compared_with_itself(evidence: Evidence) -> Found | None:
    """Two copies are one, or always equal: what compares them teaches nothing."""
    twin = evidence.depends.twin
    if twin is None:
        return _equal_preferences(evidence)
    call = f"`{twin.function}`" + (f" ({twin.line})" if twin.line else "")
    if twin.kind == "views":
        text = _("{call} compares outputs with themselves: both views of each sample are the same.", call=call)
        return shown(text, AUGMENT)
    if twin.kind == "ratio":
        text = _("Both sides of {call} are the same and have a gradient: the ratio is 1, its gradient 0.", call=call)
        return shown(text, KEEP_OLD)
    if twin.kind == "old":
        text = _("The old values in {call} change from step to step with the same tokens: the ratio is 1.", call=call)
        return shown(text, KEEP_OLD)
    text = _("Both sides of {call} are always the same: the network learns nothing from it.", call=call)
    return shown(text)


def _equal_preferences(evidence: Evidence) -> Found | None:
    """A loss of preferences that is ln 2 in all steps: its margin is 0, as if the reference moves along."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    moves = all(any(w.gradient and (w.update or 0.0) > MOVES for w in m.weights) for m in evidence.measurements[1:])
    if not moves or len(losses) < PATIENT_MEASUREMENTS or any(abs(loss - math.log(2)) > SAME for loss in losses):
        return None
    return Found((), 0.0, SAME, _("The loss is ln 2 in all steps, although weights move: what it compares is equal."))


@rule("US706", "groups of several prompts", remedy=GROUP, mistake=True)
def mixed_groups(evidence: Evidence) -> Found | None:
    """Completions are rewarded for the question that they had to answer, not for the answer."""
    size = evidence.depends.mixed_groups
    if size is None:
        return None
    text = _(
        "The advantages have a mean of 0 in groups of {size} rows, and these rows have different prompts.", size=size
    )
    return shown(text, value=size)


@rule("US707", "positions run on", remedy=COUNT_PLACES, mistake=True)
def positions_run_on(evidence: Evidence) -> Found | None:
    """A text begins at another place in the training than in use: its position embeddings are those of other places."""
    if not evidence.depends.run_on:
        return None
    return shown(_("Texts begin in the middle of a row, and their positions count what stands before them."))


@rule("US711", "noise that does not fit", remedy=REACH_NOISE, hidden_by=("US401", "US606"), mistake=True)
def unfit_noise(evidence: Evidence) -> Found | None:
    """A denoiser never sees what it has to begin with, or hardly sees the data."""
    found = evidence.depends
    low, high = found.noise or (0.0, 1.0)
    if found.uniform_noise:
        return shown(_("The noise is uniform between 0 and 1, and sampling begins with normal numbers."), DRAW_NORMAL)
    if high < COVERED:
        text = _("Where there is most noise, the correlation of what the denoiser reads with it is only {share}.",
                 share=number(high))  # fmt: skip
        return shown(text, value=high)
    if low > DROWNED:
        text = _("At all times, the correlation of what the denoiser reads with the noise is {share} or more.",
                 share=number(low))  # fmt: skip
        return shown(text, SCALE_DATA, value=low)
    return None


def _reader(effect: Effect) -> str:
    """Where an input is read."""
    if effect.module is None:
        return f"`{effect.reader}`"
    return _("`{call}` in {module}", call=effect.reader, module=named(effect.module))
