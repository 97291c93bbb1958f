"""Trainings that learn, and that do something on purpose which looks like a mistake."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modern_failures_strangers import (
    adapters,
    by_hand,
    contrastive,
    diffusion,
    experts,
    language_models,
    libraries,
    policy_gradients,
    preferences,
    quantisation,
    self_supervised,
    vision,
)
from modern_failures_strangers.data import FIRST_WORD, agreement, batches, clusters, views
from modern_failures_strangers.libraries import call_with_labels
from modern_failures_strangers.networks import GPT, MLP, Block, Denoiser, Encoder, add_lora
from modern_failures_strangers.program import Healthy
from real_failures.program import Training


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def lora_on_a_frozen_base() -> Training:
    model = add_lora(adapters.Classifier(), rank=8, skip=("head",))
    model.head.requires_grad_(True)
    return adapters.classify(model, *adapters.sentiment(), torch.optim.AdamW(trained(model), lr=5e-3))


def linear_probe() -> Training:
    model = adapters.Classifier().requires_grad_(False)
    model.head.requires_grad_(True)
    return adapters.classify(model, *adapters.sentiment(), torch.optim.AdamW(model.head.parameters(), lr=1e-2))


def prompt_tuning() -> Training:
    model = adapters.SoftPrompt(GPT(21, 11))
    return adapters.classify(model, *adapters.sentiment(), torch.optim.AdamW(trained(model), lr=1e-2))


def checkpoints_on_a_frozen_base() -> Training:
    class Checkpointed(adapters.Classifier):
        def forward(self, texts: Tensor) -> Tensor:
            states = self.encoder.tokens(texts) + self.encoder.positions
            for block in self.encoder.blocks:
                states = checkpoint(block, states, use_reentrant=False)
            return self.head(self.encoder.norm(states).mean(1))

    model = add_lora(Checkpointed(), rank=8, skip=("head",))
    model.head.requires_grad_(True)
    return adapters.classify(model, *adapters.sentiment(), torch.optim.AdamW(trained(model), lr=5e-3))


class Gated(nn.Module):
    """A frozen network and a branch beside it whose last layer is zero at first, as in ControlNet."""

    def __init__(self) -> None:
        super().__init__()
        self.base = MLP(16, 64, 8).requires_grad_(False)
        self.branch, self.gate = MLP(16, 64, 32), nn.Linear(32, 8)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.gate(self.branch(inputs))


def classify_points(model: nn.Module, optimizer: torch.optim.Optimizer, **options: object) -> Training:
    inputs, labels = clusters(1024, classes=8, width=16, noise=1.0)

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            right = agreement(model.eval()(inputs).argmax(-1), labels)
        model.train()
        return right

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=optimizer,
        score=score,
        **options,
    )


def zero_gates() -> Training:
    model = Gated()
    return classify_points(model, torch.optim.AdamW(trained(model), lr=5e-3))


def masked_prompts() -> Training:
    texts = language_models.conversations()
    model = libraries.gpt2()

    def collate(step: int) -> tuple[dict[str, Tensor], None]:
        (tokens,) = batches(texts)(step)
        labels = tokens.clone()
        labels[:, :4] = -100
        return {"input_ids": tokens, "labels": labels}, None

    return Training(
        model,
        batch=collate,
        loss=lambda outputs, _: outputs.loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: language_models.answers_right(model, texts, lambda model, tokens: model(tokens).logits),
        step=call_with_labels,
    )


def packing_with_a_block_mask() -> Training:
    return language_models.packed_texts_see_each_other(repaired=True)


class Tied(GPT):
    """The head is the embedding."""

    def __init__(self, vocabulary: int, length: int):
        super().__init__(vocabulary, length)
        self.tokens.weight.data *= 0.2
        self.head.weight = self.tokens.weight


def tied_weights() -> Training:
    return language_models.answering(Tied(12, 8))


def words_that_hardly_occur() -> Training:
    return language_models.answering(GPT(2000, 8))


def slow_teacher() -> Training:
    return contrastive.byol(lambda student: copy.deepcopy(student.encoder))


def group_relative_rewards() -> Training:
    def advantages(rewards: Tensor) -> Tensor:
        return policy_gradients.standardised(rewards.view(16, 8)).flatten()

    return policy_gradients.grpo(policy_gradients.policy(), advantages)


def actor_and_critic() -> Training:
    return policy_gradients.actor_critic()


def frozen_reference() -> Training:
    return preferences.masked_dpo(lambda texts: torch.arange(1, texts.shape[1]) >= 4, *preferences.pairs())


def condition_dropped_sometimes() -> Training:
    return diffusion.condition_dropped_too_often(repaired=True)


def denoiser_that_begins_at_zero() -> Training:
    model = Denoiser()
    nn.init.zeros_(model.net[-1].weight)
    nn.init.zeros_(model.net[-1].bias)

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(diffusion.STEPS, (len(points),))
        noise = torch.randn_like(points)
        return F.mse_loss(model(diffusion.noised(points, noise, diffusion.kept()[time]), time / diffusion.STEPS), noise)

    return diffusion.train(loss, model=model)


def straight_through() -> Training:
    return quantisation.vq(quantisation.Autoencoder())


def most_patches_hidden() -> Training:
    return self_supervised.autoencoder(self_supervised.MaskedAutoencoder(visible=3))


def balanced_experts() -> Training:
    return experts.train(experts.Mixture())


def always_clipped() -> Training:
    model = MLP(16, 64, 8)

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        for some, their_labels in zip(inputs.chunk(4), labels.chunk(4), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = training.loss(training.model(some), their_labels) / 4
            loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 0.05)
        training.optimizer.step()

    return classify_points(model, torch.optim.AdamW(model.parameters(), lr=3e-3), step=step)


def adversaries() -> Training:
    return by_hand.adversarial()


def smoothed_and_mixed() -> Training:
    return vision.mixed_with_other_labels(repaired=True)


def warm_up_from_zero() -> Training:
    model = MLP(16, 64, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 20, max(0.0, (100 - step) / 80)))
    return classify_points(model, optimizer, after=warm_up.step)


class SometimesSkipped(nn.Module):
    """Blocks that are left out at random in the training."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, 32), nn.Linear(32, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(32), MLP(32, 64, 32)) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.embed(inputs)
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                states = states + block(states)
        return self.head(states)


def blocks_left_out() -> Training:
    model = SometimesSkipped()
    return classify_points(model, torch.optim.AdamW(model.parameters(), lr=3e-3))


def locked_pictures() -> Training:
    pictures, texts, _ = views(1024)
    model = contrastive.TwoTowers()
    model.pictures.requires_grad_(False)

    def loss(embeddings: tuple[Tensor, Tensor], _: None) -> Tensor:
        one, other = embeddings
        similarity = model.scale.exp().clamp(max=100) * one @ other.mT
        right = torch.arange(len(one))
        return (F.cross_entropy(similarity, right) + F.cross_entropy(similarity.mT, right)) / 2

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], None]:
        return batches(pictures, texts, size=64)(step), None

    optimizer = torch.optim.AdamW(trained(model), lr=3e-3)
    return Training(model, batch, loss, optimizer, lambda model: contrastive.retrieves(model, pictures, texts))


def noisy_student() -> Training:
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    labels = (texts[:, 0] > texts[:, 1]).long()

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = Encoder(21, 7, dropout=0.3), nn.Linear(32, 2)

        def forward(self, texts: Tensor) -> Tensor:
            return self.head(self.encoder(texts).mean(1))

    student = Dropped()
    teacher = copy.deepcopy(student).requires_grad_(False)

    def loss(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        some, some_labels = batch
        known = len(some) // 2
        agreed = F.mse_loss(logits.softmax(-1), teacher(some).softmax(-1))
        return F.cross_entropy(logits[:known], some_labels[:known]) + agreed

    @torch.no_grad()
    def average() -> None:
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
            slow.lerp_(fast, 0.05)

    @torch.no_grad()
    def score(_: nn.Module) -> float:
        right = agreement(teacher.eval()(texts).argmax(-1), labels)
        teacher.train()
        return right

    def batch(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        some = batches(texts, labels)(step)
        return some[0], some

    return Training(student, batch, loss, torch.optim.AdamW(student.parameters(), lr=3e-3), score, after=average)


class LayerScaled(nn.Module):
    """A block whose contribution is scaled by a small learned number, as in CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(vision.PATCH**2, 32), Block(32)
        self.places, self.scale = nn.Parameter(0.5 * torch.randn(vision.PATCHES, 32)), nn.Parameter(torch.tensor(1e-3))
        self.head = nn.Linear(32, 18)

    def forward(self, pictures: Tensor) -> Tensor:
        states = self.embed(vision.patches(pictures)) + self.places
        return (
            self.head((states + self.scale * (self.block(states) - states)).flatten(0, 1))
            .unflatten(0, (-1, vision.PATCHES))
            .logsumexp(1)
        )


def nearly_nothing_at_first() -> Training:
    return vision.classify(LayerScaled())


TRAININGS = [
    Healthy("LoRA on a frozen base", "most weights are frozen, and B is zero", lora_on_a_frozen_base, 150, 0.2),
    Healthy("linear probe", "all weights but those of the head are frozen", linear_probe, 150, 0.15),
    Healthy("prompt tuning", "a few vectors are trained before a frozen network", prompt_tuning, 150, 0.1),
    Healthy("checkpoints on a frozen base", "no input requires a gradient", checkpoints_on_a_frozen_base, 150, 0.2),
    Healthy(
        "branch behind a gate of zeros", "the gradient of the branch is zero in the first step", zero_gates, 100, 0.5
    ),
    Healthy("loss on the answers only", "more than half of the labels are ignored", masked_prompts, 120, 0.5),
    Healthy(
        "packing with a mask of blocks", "texts share a row, positions begin anew", packing_with_a_block_mask, 60, 0.5
    ),
    Healthy("tied weights", "embedding and head are one parameter", tied_weights, 120, 0.5),
    Healthy("words that hardly occur", "most rows of the embedding get no gradient", words_that_hardly_occur, 120, 0.5),
    Healthy("BYOL", "the target is a slow average without a gradient", slow_teacher, 200, 0.03),
    Healthy("GRPO", "the loss is about zero all the time", group_relative_rewards, 60, 0.3),
    Healthy("actor and critic", "the loss is noise, and the data depend on the policy", actor_and_critic, 60, 0.3),
    Healthy(
        "DPO with a frozen reference", "the loss begins at log 2, two networks are alike", frozen_reference, 60, 0.15
    ),
    Healthy("condition dropped sometimes", "one label of ten is replaced", condition_dropped_sometimes, 100, 0.3),
    Healthy("denoiser that begins at zero", "the last layer is zero", denoiser_that_begins_at_zero, 300, 0.5),
    Healthy("straight-through quantisation", "the gradient jumps over an argmin", straight_through, 200, 1.0),
    Healthy("masked autoencoder", "three of four patches are hidden", most_patches_hidden, 150, 0.2),
    Healthy("mixture with a balancing loss", "each input reaches one expert", balanced_experts, 300, 0.3),
    Healthy("gradients that are always clipped", "bfloat16, accumulation and a norm of 0.05", always_clipped, 100, 0.5),
    Healthy("generator and critic", "two optimizers with opposite aims", adversaries, 300, 0.5),
    Healthy("mixup", "the training loss stays high", smoothed_and_mixed, 100, 0.5),
    Healthy("warm-up from zero", "the learning rate of the first step is zero", warm_up_from_zero, 100, 0.5),
    Healthy("blocks left out at random", "some layers get no gradient in a step", blocks_left_out, 100, 0.5),
    Healthy("locked picture tower", "one tower is random and frozen", locked_pictures, 120, 0.2),
    Healthy("teacher with dropout", "the teacher is in training mode, on purpose", noisy_student, 150, 0.2),
    Healthy("layer scale", "the block counts a thousandth at first", nearly_nothing_at_first, 150, 0.3),
]
