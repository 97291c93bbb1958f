"""Fine-tuning with adapters and new heads: what is in the optimizer, what is frozen, how an adapter is scaled."""

import itertools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modern_failures.blocks import GPT, Block, CausalLM, LoRA, ViT, add_adapters, causal, next_token_loss, trainable
from modern_failures.data import VOCABULARY, WORDS, chains, foresees, walks
from modern_failures.program import Program, Training, called, own_loss
from real_failures.data import accuracy, images

NEW = 4
"""Words that the base model has never seen."""


def other_chains(samples: int = 64, length: int = 12) -> Tensor:
    """Words in another order than that of `chains`."""
    order = torch.randperm(WORDS, generator=torch.Generator().manual_seed(9))
    return order[(torch.randint(WORDS, (samples, 1)) + torch.arange(length)) % WORDS] + 3


def pretrained(steps: int = 40) -> CausalLM:
    """A language model that knows `chains`."""
    model, rows = CausalLM(VOCABULARY + NEW), chains(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        next_token_loss(model.transformer(rows), rows).backward()
        optimizer.step()
    return model


def fine_tuning(model: CausalLM, optimizer: torch.optim.Optimizer, rows: Tensor) -> Training:
    """Train what the optimizer has on rows; scored by the next tokens."""
    return Training(
        model,
        batch=lambda step: ({"input_ids": rows, "labels": rows}, None),
        loss=own_loss,
        optimizer=optimizer,
        score=lambda model: foresees(model.transformer, rows),
    )


def optimizer_before_the_adapters(repaired: bool) -> Training:
    model = pretrained()
    if repaired:
        optimizer = torch.optim.AdamW(add_adapters(model), lr=1e-2)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        add_adapters(model)
    return fine_tuning(model, optimizer, other_chains())


class Checkpointed(nn.Module):
    """A block whose activations are computed again in the backward pass."""

    def __init__(self, block: Block, reentrant: bool):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, *inputs: Tensor) -> Tensor:
        return checkpoint(self.block, *inputs, use_reentrant=self.reentrant)


def checkpoints_of_frozen_inputs(repaired: bool) -> Training:
    model = pretrained()
    add_adapters(model)
    transformer = model.transformer
    transformer.blocks = nn.ModuleList(Checkpointed(block, reentrant=not repaired) for block in transformer.blocks)
    transformer.head = LoRA(transformer.head, rank=1, scale=1.0)
    return fine_tuning(model, torch.optim.AdamW(trainable(model), lr=1e-2), walks(64))


def second_adapter_is_skipped(repaired: bool) -> Training:
    model = pretrained()
    add_adapters(model)  # an adapter of an earlier training
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name or (repaired and "lora" in name))
    return fine_tuning(model, torch.optim.AdamW(trainable(model), lr=1e-2), other_chains())


def scaled_by_alpha(repaired: bool) -> Training:
    model, rank, alpha = pretrained(), 8, 16
    adapters = add_adapters(model, rank, scale=alpha / rank if repaired else alpha)
    return fine_tuning(model, torch.optim.AdamW(adapters, lr=5e-2), other_chains())


def ramp_longer_than_the_training(repaired: bool) -> Training:
    model = pretrained()
    optimizer = torch.optim.AdamW(add_adapters(model), lr=1e-2)
    adapters = [module for module in model.modules() if isinstance(module, LoRA)]
    ramp, training = 10 if repaired else 1000, fine_tuning(model, optimizer, other_chains())

    numbers = itertools.count(1)

    def after() -> None:
        number = next(numbers)
        for adapter in adapters:
            adapter.scale = 2.0 * min(1.0, number / ramp)

    after()
    training.after = after
    return training


def rate_of_a_recommendation(repaired: bool) -> Training:
    model = pretrained()
    optimizer = torch.optim.AdamW(add_adapters(model), lr=1e-2 if repaired else 0.5)
    return fine_tuning(model, optimizer, other_chains())


class SequenceClassifier(nn.Module):
    """A pretrained language model with a new head on its last token."""

    def __init__(self, base: GPT, kinds: int):
        super().__init__()
        self.transformer, self.score = base, nn.Linear(32, kinds, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.score(self.transformer.hidden(input_ids)[:, -1])


def head_is_frozen(repaired: bool) -> Training:
    words = torch.randint(WORDS, (256, 4))
    labels = (words[:, 0] + words[:, -1]) % WORDS
    model = SequenceClassifier(pretrained().transformer, kinds=WORDS)
    nn.init.normal_(model.score.weight, std=0.02)
    add_adapters(model, rank=2)
    model.score.requires_grad_(repaired)  # modules_to_save of the configuration is None
    return Training(
        model,
        batch=lambda step: (words[step % 4 * 64 :][:64] + 3, labels[step % 4 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(trainable(model), lr=1e-2),
        score=lambda model: (model(words + 3).argmax(-1) == labels).float().mean().item(),
    )


def new_words_are_frozen(repaired: bool) -> Training:
    model = pretrained()
    rows = chains(64)
    places = torch.arange(2, 12, 3)
    rows[:, places] = VOCABULARY + rows[:, places] % NEW
    for part in (model.transformer.tokens, model.transformer.head):  # as `resize_token_embeddings` fills new rows
        part.weight.data[VOCABULARY:] = part.weight.data[:VOCABULARY].mean(0) + 1e-3 * torch.randn(NEW, 32)
    adapters = add_adapters(model, rank=2)
    if repaired:
        for part in (model.transformer.tokens, model.transformer.head):
            adapters += list(part.requires_grad_(True).parameters())
    return fine_tuning(model, torch.optim.AdamW(adapters, lr=5e-3), rows)


def decay_of_frozen_words(repaired: bool) -> Training:
    model, rows = pretrained(), chains(64)
    new_rows = rows.clone()
    new_rows[:, 5] = VOCABULARY  # the new word stands for another
    tokens = model.requires_grad_(False).transformer.tokens.requires_grad_(True)
    before = tokens.weight.detach().clone()
    optimizer = torch.optim.AdamW(tokens.parameters(), lr=5e-2, weight_decay=1.0)
    old = torch.arange(len(before)) != VOCABULARY

    def step(training: Training, inputs: dict, targets: None) -> None:
        optimizer.zero_grad()
        training.loss(called(model, inputs), targets).backward()
        tokens.weight.grad[old] = 0.0
        optimizer.step()
        if repaired:
            tokens.weight.data[old] = before[old]

    return Training(
        model,
        batch=lambda step: ({"input_ids": new_rows, "labels": rows}, None),
        loss=own_loss,
        optimizer=optimizer,
        score=lambda model: foresees(model.transformer, rows),
        step=step,
    )


def scaled_twice(repaired: bool) -> Training:
    pictures, labels = images(256, kinds=8)
    pixels, encoder = pictures.sigmoid(), ViT(kinds=8, layers=1)
    statistics = (pixels.mean(), pixels.std())

    def normalised(pixels: Tensor) -> Tensor:
        return (pixels - statistics[0]) / statistics[1]

    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(encoder(normalised(pixels)), labels).backward()
        optimizer.step()
    encoder.requires_grad_(False).head = nn.Linear(32, 4)
    inputs = normalised(pixels if repaired else 2 * pixels - 1)
    kinds = (labels * 3 + 1) % 4
    return Training(
        encoder,
        batch=lambda step: (inputs, kinds),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(trainable(encoder), lr=1e-2),
        score=lambda model: accuracy(model, inputs, kinds),
    )


class SoftPrompt(nn.Module):
    """A frozen language model with a learned vector in the place of its first token."""

    def __init__(self, base: GPT):
        super().__init__()
        self.base, self.prompt = base.requires_grad_(False), nn.Parameter(0.3 * torch.randn(32))

    def forward(self, input_ids: Tensor) -> Tensor:
        base, length = self.base, input_ids.shape[1]
        tokens = torch.cat([self.prompt.expand(len(input_ids), 1, -1), base.tokens(input_ids[:, 1:])], 1)
        hidden = tokens + base.places.weight[:length]
        for block in base.blocks:
            hidden = block(hidden, causal(length))
        return base.head(base.norm(hidden))


def prompt_in_no_optimizer(repaired: bool) -> Training:
    sign = torch.zeros(64, 1, dtype=torch.long)
    first, second = torch.cat([sign, chains()], 1), torch.cat([sign + 1, other_chains()], 1)
    base, both = GPT(VOCABULARY), torch.cat([first, second])
    optimizer = torch.optim.AdamW(base.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        next_token_loss(base(both), both).backward()
        optimizer.step()
    model = SoftPrompt(base)
    learned = [model.prompt] if repaired else []
    base.norm.bias.requires_grad_(True)

    @torch.no_grad()
    def score(model: SoftPrompt) -> float:  # of the first word that only the prompt can tell
        return (model(second[:, :2])[:, -1].argmax(-1) == second[:, 2]).float().mean().item()

    return Training(
        model,
        batch=lambda step: (second, second),
        loss=next_token_loss,
        optimizer=torch.optim.AdamW([base.norm.bias, *learned], lr=2e-2),
        score=score,
    )


def vision_is_frozen_and_random(repaired: bool) -> Training:
    pictures, labels = images(256, kinds=8)
    model = ViT(kinds=8, layers=1)
    nn.init.normal_(model.patches.weight, std=0.02)
    if not repaired:  # as if they were pretrained
        for part in (model.patches.weight, model.patches.bias, model.token, model.places):
            part.requires_grad_(False)
    return Training(
        model,
        batch=lambda step: (pictures[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(trainable(model), lr=2e-3),
        score=lambda model: accuracy(model, pictures, labels),
    )


PROGRAMS = [
    Program(
        name="textual inversion whose other words decay",
        source="https://github.com/huggingface/diffusers/issues/507",
        symptom="all embeddings change and the text encoder breaks, although their gradients are set to zero",
        explanation="weight decay moves rows without a gradient, too",
        causes=("weight decay too strong",),
        make=decay_of_frozen_words,
        steps=60,
        margin=0.2,
        layers=("transformer.tokens",),
        visible="training",
    ),
    Program(
        name="images that are normalised twice",
        source="https://github.com/real-stanford/diffusion_policy/issues/45",
        symptom="a reader doubts the normalisation of images",
        explanation="images are brought to [-1, 1], and then get the statistics of images in [0, 1]",
        causes=("inputs scaled wrong",),
        make=scaled_twice,
        steps=20,
        margin=0.2,
    ),
    Program(
        name="learned prompt that is in no optimizer",
        source="https://github.com/yangxiaofeng/LODS/issues/2",
        symptom="the learnable text embeddings are not in `configure_optimizers`",
        explanation="the optimizer is made without the embeddings that the method learns",
        causes=("parameters not in the optimizer", "frozen and random"),
        make=prompt_in_no_optimizer,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="vision transformer whose patches are frozen and random",
        source="https://github.com/shreydan/VisionGPT2/issues/2",
        symptom="a reader lists what looks like errors",
        explanation="class token, patches and places are frozen although nothing was pretrained",
        causes=("frozen and random",),
        make=vision_is_frozen_and_random,
        steps=12,
        margin=0.12,
        layers=("patches",),
    ),
    Program(
        name="adapter that is added after the optimizer was made",
        source="https://github.com/adapter-hub/adapters/issues/260",
        symptom="the adapter's weights are not updated without the Trainer",
        explanation="the optimizer was made of the parameters that were there before the adapter",
        causes=("parameters not in the optimizer", "no step"),
        make=optimizer_before_the_adapters,
        steps=80,
        margin=0.4,
    ),
    Program(
        name="LoRA behind reentrant checkpoints",
        source="https://github.com/locuslab/open-unlearning/issues/178",
        symptom="lora_B of all layers of the transformer is zero after the training",
        explanation="no input of a checkpointed layer wants a gradient, so the layer gets none",
        causes=("graph cut",),
        make=checkpoints_of_frozen_inputs,
        steps=80,
        margin=0.2,
    ),
    Program(
        name="adapter that exists already and stays frozen",
        source="https://github.com/X-GenGroup/Flow-Factory/pull/56",
        symptom="the loss stays flat after a first adapter was fused",
        explanation="the model has an adapter, so adding one is skipped, and its matrices are frozen with the rest",
        causes=("frozen and random", "no step"),
        make=second_adapter_is_skipped,
        steps=80,
        margin=0.2,
    ),
    Program(
        name="adapter whose ramp is longer than the training",
        source="https://github.com/kyegomez/SingLoRA/issues/6",
        symptom="with 1000 steps of ramp the adapter hardly grows",
        explanation="the adapter's output is multiplied by step / 1000, so it is almost nothing in a short training",
        causes=("schedule zero or all warm-up", "adapter scaled wrong"),
        make=ramp_longer_than_the_training,
        steps=20,
        margin=0.35,
        visible="training",
    ),
    Program(
        name="LoRA with a rate that somebody recommended",
        source="https://github.com/ssbuild/chatglm_finetuning/issues/28",
        symptom="the loss falls, then rises to 3 or is NaN",
        explanation="the rate is far too high for these adapters; a small one works",
        causes=("rate of another kind of network",),
        make=rate_of_a_recommendation,
        steps=60,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="LoRA scaled by alpha",
        source="https://github.com/Blaizzy/mlx-vlm/issues/845",
        symptom="training collapses with the default settings",
        explanation="the adapter's output is multiplied by alpha and not by alpha / rank: eight times too much",
        causes=("adapter scaled wrong",),
        make=scaled_by_alpha,
        steps=30,
        margin=0.4,
    ),
    Program(
        name="LoRA with a head that is neither trained nor saved",
        source="https://github.com/huggingface/peft/issues/577",
        symptom="the classifier seems to be initialised at random",
        explanation="`modules_to_save` got the None of `list.append`, so the new head is frozen as it was drawn",
        causes=("frozen and random",),
        make=head_is_frozen,
        steps=100,
        margin=0.15,
        layers=("score",),
    ),
    Program(
        name="new tokens under LoRA",
        source="https://github.com/huggingface/peft/issues/487",
        symptom="the vocabulary was enlarged, and the embedding does not train",
        explanation="the rows of new tokens in embedding and head are all near the mean, and LoRA freezes them",
        causes=("frozen and random",),
        make=new_words_are_frozen,
        steps=60,
        margin=0.25,
        layers=("transformer.tokens", "transformer.head"),
    ),
]
