"""Adapters, and frozen parts around them."""

import math

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForSequenceClassification

from modern_failures_second.common import by_name, signals, tiny_gpt
from modern_failures_strangers.data import agreement, batches, clusters, walks
from modern_failures_strangers.program import Program
from real_failures.program import Training


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def texts_training(model: nn.Module, texts: Tensor, score, lr: float, labels: Tensor | None = None) -> Training:
    """The training of a language model on all of its tokens or on some."""
    labels = texts if labels is None else labels

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_labels = batches(texts[:1024], labels[:1024])(step)
        return {"input_ids": some, "labels": some_labels}, some_labels

    optimizer = torch.optim.AdamW(trained(model), lr=lr)
    return Training(model, batch, lambda outputs, labels: outputs.loss, optimizer, score, step=by_name)


def new_tokens_frozen(repaired: bool) -> Training:
    words = walks(1280, 5)
    model = tiny_gpt(vocabulary=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        some = words[step * 16 :][:16]
        model(input_ids=some, labels=some).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    mean = model.get_input_embeddings().weight.detach().mean(0)
    model.resize_token_embeddings(18, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[12:] = mean
    kind = torch.randint(6, (1280,))
    firsts = torch.stack([words[words[:, 0] == 3 + k][0] for k in range(6)])
    texts = torch.cat([12 + kind[:, None], firsts[kind]], 1)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    if repaired:
        model.get_input_embeddings().weight.requires_grad_(True)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(input_ids=texts[1024:]).logits[:, 0].argmax(-1), texts[1024:, 1])

    return texts_training(model, texts, score, lr=5e-3)


def head_not_saved(repaired: bool) -> Training:
    tokens, labels, _ = signals(1280)
    config = BertConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=4,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    nn.init.normal_(model.classifier.weight, std=0.02)
    extra = {"modules_to_save": ["classifier"]} if repaired else {}
    targets = ["query", "value", "attention.output.dense"]
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, **extra)).train()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_labels = batches(tokens[:1024], labels[:1024])(step)
        return {"input_ids": some}, some_labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -F.cross_entropy(model(input_ids=tokens[1024:]).logits, labels[1024:]).item()

    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)

    def loss(outputs, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, labels)

    return Training(model, batch, loss, optimizer, score, step=by_name)


class HandLoRA(nn.Module):
    """A frozen linear layer with a trained product of two thin matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int, zeros: bool):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        if not zeros:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + 2 * inputs @ self.down.T @ self.up.T


def both_factors_zero(repaired: bool) -> Training:
    points, labels = clusters(1280, classes=8, noise=1.5)
    model = nn.Sequential(
        HandLoRA(nn.Linear(16, 32), 4, zeros=not repaired), nn.GELU(), HandLoRA(nn.Linear(32, 8), 4, zeros=not repaired)
    )

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(points[1024:]).argmax(-1), labels[1024:])

    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    return Training(model, batches(points[:1024], labels[:1024]), F.cross_entropy, optimizer, score)


class Tower(nn.Module):
    """Features of a frozen tower with adapters, and a trained projector behind it."""

    def __init__(self, without_gradient: bool):
        super().__init__()
        tower = nn.Sequential(nn.Linear(32, 8), nn.Tanh())
        self.tower = get_peft_model(tower, LoraConfig(r=4, lora_alpha=16, target_modules=["0"]))
        self.projector, self.without_gradient = (
            nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 5)),
            without_gradient,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.without_gradient):
            features = self.tower(inputs)
        return self.projector(features)


def adapters_under_no_grad(repaired: bool) -> Training:
    points, labels = clusters(1280, width=4, noise=0.5)
    points = torch.cat([points, 3 * torch.randn(1280, 28)], 1)
    model = Tower(without_gradient=not repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(points[1024:]).argmax(-1), labels[1024:])

    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    return Training(model, batches(points[:1024], labels[:1024]), F.cross_entropy, optimizer, score)


class Checkpointed(nn.Module):
    """A frozen body with adapters that is recomputed in the backward pass, and a trained head."""

    def __init__(self, inputs_with_gradient: bool):
        super().__init__()
        self.body = nn.Sequential(HandLoRA(nn.Linear(32, 8), 4, zeros=False), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 5))
        self.inputs_with_gradient = inputs_with_gradient

    def forward(self, inputs: Tensor) -> Tensor:
        if self.inputs_with_gradient:
            inputs = inputs.clone().requires_grad_(torch.is_grad_enabled())
        return self.head(checkpoint(self.body, inputs, use_reentrant=True))


def checkpointing_after_the_adapters(repaired: bool) -> Training:
    points, labels = clusters(1280, width=4, noise=0.5)
    points = torch.cat([points, 3 * torch.randn(1280, 28)], 1)
    model = Checkpointed(inputs_with_gradient=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(points[1024:]).argmax(-1), labels[1024:])

    optimizer = torch.optim.AdamW(trained(model), lr=1e-2)
    return Training(model, batches(points[:1024], labels[:1024]), F.cross_entropy, optimizer, score)


PROGRAMS = [
    Program(
        name="new tokens all alike and frozen",
        source="https://github.com/hiyouga/LlamaFactory/issues/6446",
        symptom="the loss falls and stops; the model cannot tell the new special tokens apart",
        explanation="the new rows of the embedding all have the mean of the old ones, and LoRA freezes the embedding",
        cause="new embeddings frozen",
        make=new_tokens_frozen,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="new head frozen by the adapters",
        source="https://github.com/JIA-Lab-research/LongLoRA/issues/79",
        symptom="the loss hardly falls below that of guessing",
        explanation="the classifier is new, but `modules_to_save` does not name it, so it stays at its small "
        "random values",
        cause="new head frozen",
        make=head_not_saved,
        steps=150,
        margin=0.4,
    ),
    Program(
        name="both factors of the adapter zero",
        source="https://github.com/nvidia-cosmos/cosmos-predict2.5/pull/15",
        symptom="the loss is constant; gradients exist and are zero",
        explanation="both matrices of LoRA start at zero, and each gets its gradient through the other",
        cause="gradient zero by initialisation",
        make=both_factors_zero,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="tower with adapters under no_grad",
        source="https://github.com/haotian-liu/LLaVA/issues/1537",
        symptom="only the projector learns; the adapters in the vision tower have no gradient",
        explanation="the forward of the tower, which has the adapters, runs under `torch.no_grad`",
        cause="trained part under no_grad",
        make=adapters_under_no_grad,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="reentrant checkpointing of a frozen input",
        source="https://github.com/locuslab/open-unlearning/issues/178",
        symptom="a warning that no input requires gradients; the adapters stay at zero and only the head learns",
        explanation="reentrant checkpointing passes no gradient to what is inside if its input needs none, and the "
        "embedding is frozen; `enable_input_require_grads` is missing",
        cause="checkpointing drops gradients",
        make=checkpointing_after_the_adapters,
        steps=150,
        margin=0.2,
    ),
]
