"""LoRA, adapters and frozen parts: what should be trained and is not."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modern_failures_strangers import libraries
from modern_failures_strangers.data import ASK, FIRST_WORD, agreement, batches, clusters, column, translations
from modern_failures_strangers.language_models import answering
from modern_failures_strangers.libraries import call_with_labels
from modern_failures_strangers.networks import GPT, MLP, Encoder, LoRA, add_lora
from modern_failures_strangers.program import Program
from real_failures.program import Training


def classify(model: nn.Module, texts: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> Training:
    """The usual training of a classifier of texts."""

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[:256]).argmax(-1), labels[:256])

    return Training(model, batches(texts, labels), F.cross_entropy, optimizer, score)


def sentiment() -> tuple[Tensor, Tensor]:
    """Texts, and whether their words are mostly good ones."""
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    return texts, ((texts < 12).sum(1) > 3).long()


class Classifier(nn.Module):
    """Encoder and head, maybe with checkpoints."""

    def __init__(self, checkpoints: bool = False):
        super().__init__()
        self.encoder, self.head = Encoder(21, 7, layers=2), nn.Linear(32, 2)
        self.checkpoints, self.inputs_require_grad = checkpoints, False

    def forward(self, texts: Tensor) -> Tensor:
        states = self.encoder.tokens(texts) + self.encoder.positions
        if self.inputs_require_grad:
            states = states.detach().requires_grad_()
        for block in self.encoder.blocks:
            states = checkpoint(block, states, use_reentrant=True) if self.checkpoints else block(states)
        return self.head(self.encoder.norm(states).mean(1))


def checkpoints_without_input_gradients(repaired: bool) -> Training:
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    labels = (texts[:, :1] == texts[:, 1:]).any(1).long()
    model = add_lora(Classifier(checkpoints=True), rank=8, skip=("head",))
    model.head.requires_grad_(True)
    model.inputs_require_grad = repaired
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    return classify(model, texts, labels, optimizer)


def both_factors_zero(repaired: bool) -> Training:
    model = add_lora(GPT(12, 8), rank=8)
    for module in model.modules():
        if isinstance(module, LoRA) and not repaired:
            nn.init.zeros_(module.down)
    return answering(model, lr=1e-2)


def optimizer_before_adapters(repaired: bool) -> Training:
    questions, answers = translations(256)
    texts = torch.cat([questions, column(256, ASK), answers], 1)
    model = libraries.llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    add_lora(model, rank=8)
    if repaired:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def collate(step: int) -> tuple[dict[str, Tensor], None]:
        (tokens,) = batches(texts)(step)
        labels = tokens.clone()
        labels[:, :4] = -100
        return {"input_ids": tokens, "labels": labels}, None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(input_ids=texts[:128, :-1]).logits[:, 3:].argmax(-1), answers[:128])

    return Training(model, collate, lambda outputs, _: outputs.loss, optimizer, score, step=call_with_labels)


class SoftPrompt(nn.Module):
    """Learned vectors before the embedded words of a frozen model."""

    def __init__(self, model: GPT, length: int = 4):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.prompt = nn.Parameter(model.tokens.weight[:length].clone())
        self.head = nn.Linear(32, 2)

    def forward(self, texts: Tensor) -> Tensor:
        words = torch.cat([self.prompt.expand(len(texts), -1, -1), self.model.tokens(texts)], 1)
        states = words + self.model.positions.weight[: words.shape[1]]
        for block in self.model.blocks:
            states = block(states)
        return self.head(self.model.norm(states)[:, :4].mean(1))


def soft_prompt_not_given_to_the_optimizer(repaired: bool) -> Training:
    texts, labels = sentiment()
    model = SoftPrompt(GPT(21, 11))
    parameters = [model.prompt, *model.head.parameters()] if repaired else list(model.model.tokens.parameters())
    return classify(model, texts, labels, torch.optim.AdamW(parameters, lr=1e-2))


class Adapted(nn.Module):
    """A frozen encoder with an adapter after each of its blocks; the adapters in a list of some kind."""

    def __init__(self, kind: type):
        super().__init__()
        self.base = Classifier().requires_grad_(False)
        self.adapters = kind([MLP(32, 16, 32) for _ in self.base.encoder.blocks])
        self.head = nn.Linear(32, 9)

    def forward(self, texts: Tensor) -> Tensor:
        encoder = self.base.encoder
        states = encoder.tokens(texts) + encoder.positions
        for block, adapter in zip(encoder.blocks, self.adapters, strict=True):
            states = states + adapter(block(states))
        return self.head(encoder.norm(states).amax(1))


def adapters_in_a_plain_list(repaired: bool) -> Training:
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    labels = (texts[:, 0] + texts[:, 6]) % 9
    model = Adapted(nn.ModuleList if repaired else list)
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=5e-3)
    return classify(model, texts, labels, optimizer)


def head_frozen_too(repaired: bool) -> Training:
    texts, labels = sentiment()
    model = Classifier()
    nn.init.zeros_(model.head.weight)
    add_lora(model, rank=8, skip=("head",))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith((".up", ".down")) or (repaired and name.startswith("head"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    return classify(model, texts, labels, optimizer)


def new_tokens_frozen(repaired: bool) -> Training:
    model = GPT(12, 6)
    old = model.tokens.weight.data
    model.tokens = nn.Embedding(24, 32)
    model.tokens.weight.data[:12] = old
    model.tokens.weight.data[12:] = old.mean(0)
    add_lora(model, rank=8)
    model.tokens.weight.requires_grad = repaired
    new = torch.randint(12, 24, (256, 2))
    meanings = torch.randint(FIRST_WORD, 12, (12,))
    texts = torch.cat([new, column(256, ASK), meanings[new - 12]], 1)

    @torch.no_grad()
    def score(model: GPT) -> float:
        return agreement(model(texts[:128, :-1])[:, 2:].argmax(-1), texts[:128, 3:])

    return Training(
        model,
        batch=batches(texts, texts),
        loss=lambda logits, labels: F.cross_entropy(logits[:, 2:-1].flatten(0, 1), labels[:, 3:].flatten()),
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
        score=score,
    )


def filter_of_names_reversed(repaired: bool) -> Training:
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    labels = (texts[:, 0] > texts[:, 1]).long()
    model = Classifier()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ("norm" in name) != repaired
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return classify(model, texts, labels, optimizer)


class Merged(nn.Module):
    """LoRA that adds its correction to the weight; by way of `.data` or in the graph."""

    def __init__(self, base: nn.Linear, through_data: bool):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, base.in_features) / 4)
        self.up = nn.Parameter(torch.zeros(base.out_features, 4))
        self.through_data = through_data

    def forward(self, inputs: Tensor) -> Tensor:
        if self.through_data:
            merged = copy.copy(self.base.weight.data)
            merged += (self.up @ self.down).data
        else:
            merged = self.base.weight + self.up @ self.down
        return F.linear(inputs, merged, self.base.bias)


def merged_outside_of_the_graph(repaired: bool) -> Training:
    points, labels = clusters(512, classes=12, width=16, noise=0.5)
    body = nn.Sequential(Merged(nn.Linear(16, 64), not repaired), nn.ReLU(), Merged(nn.Linear(64, 3), not repaired))
    model = nn.Sequential(body, nn.Linear(3, 12))
    trained = [p for p in model.parameters() if p.requires_grad]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(points).argmax(-1), labels)

    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    return Training(model, batches(points, labels, size=64), F.cross_entropy, optimizer, score)


def scaled_by_alpha(repaired: bool) -> Training:
    rank, alpha = 8, 64.0
    texts = torch.randint(FIRST_WORD, 21, (512, 7))
    labels = (texts[:, 0] > texts[:, 1]).long()
    model = add_lora(Classifier(), rank=rank, alpha=alpha if repaired else alpha * rank, skip=("head",))
    model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    return classify(model, texts, labels, optimizer)


def alpha_of_one(repaired: bool) -> Training:
    return answering(add_lora(GPT(12, 8), rank=16, alpha=16.0 if repaired else 1.0), lr=2e-3)


PROGRAMS = [
    Program(
        name="LoRA under reentrant checkpoints",
        source="https://github.com/locuslab/open-unlearning/issues/178",
        symptom="after the training all `lora_B` in the blocks are still zero; only the head was trained",
        explanation="the embedding is frozen and its output needs no gradient, so the checkpoints give none",
        cause="graph cut",
        make=checkpoints_without_input_gradients,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="LoRA with both factors zero",
        source="https://github.com/Guitaricet/relora/issues/18",
        symptom="the loss does not move at all",
        explanation="the gradient of each factor is a product with the other, and both are zero",
        cause="zero times zero",
        make=both_factors_zero,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="optimizer built before the adapters",
        source="https://github.com/adapter-hub/adapters/issues/260",
        symptom="the weights of the adapter do not change",
        explanation="the optimizer has the parameters from before the adapters were added, and those are frozen",
        cause="not in the optimizer",
        make=optimizer_before_adapters,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="adapters in a plain list",
        source="https://github.com/pytorch/pytorch/issues/715",
        symptom="the training accuracy stays low, and few parameters are reported as trainable",
        explanation="modules in a Python list are not registered, so their parameters are in no optimizer",
        cause="not in the optimizer",
        make=adapters_in_a_plain_list,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="soft prompt that is not in the optimizer",
        source="https://github.com/kipgparker/soft-prompt-tuning/issues/4",
        symptom="the learned embedding remains unchanged",
        explanation="the optimizer was given the original embedding, which is frozen, and not the prompt",
        cause="not in the optimizer",
        make=soft_prompt_not_given_to_the_optimizer,
        steps=250,
        margin=0.1,
    ),
    Program(
        name="LoRA scaled by alpha and not by alpha / rank",
        source="https://github.com/Blaizzy/mlx-vlm/issues/841",
        symptom="the training collapses with the default settings",
        explanation="the correction is multiplied by alpha alone, many times more than meant",
        cause="steps too large",
        make=scaled_by_alpha,
        steps=120,
        margin=0.15,
    ),
    Program(
        name="classification head frozen with the base",
        source="https://github.com/TNI-playground/Fed_HeLLo/issues/2",
        symptom="the accuracy is that of a random head",
        explanation="only LoRA's parameters are trained; the new head, which begins at zero, is frozen with the base",
        cause="frozen by mistake",
        make=head_frozen_too,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="embeddings of new tokens frozen",
        source="https://github.com/feizc/Visual-LLaMA/issues/2",
        symptom="the loss falls a little, and the new tokens are never understood",
        explanation="the embedding was enlarged for new tokens and then frozen with the rest of the model",
        cause="frozen by mistake",
        make=new_tokens_frozen,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="nearly all frozen by a wrong name",
        source="https://github.com/quangvnai/grit/issues/20",
        symptom="the loss hardly falls",
        explanation="the filter of the names is written the wrong way round, and freezes what should be trained",
        cause="frozen by mistake",
        make=filter_of_names_reversed,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="LoRA merged by way of .data",
        source="",
        symptom="the loss falls a little, because of the head, and LoRA's factors have no gradients",
        explanation="the merged weight is made of `.data`, outside of the graph; known from home-made merges",
        cause="graph cut",
        make=merged_outside_of_the_graph,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="LoRA of rank 16 with alpha 1",
        source="https://github.com/kohya-ss/sd-scripts/issues/98",
        symptom="LoRA learns far slower than it should",
        explanation="the correction is scaled by alpha / rank, and alpha was left at 1 when the rank was raised",
        cause="update too small",
        make=alpha_of_one,
        steps=120,
        margin=0.2,
    ),
]
