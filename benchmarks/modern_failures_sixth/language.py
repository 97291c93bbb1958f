"""Trainings of language models and other models of tokens: twelve with a mistake, three unusual and healthy ones."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def keyword_step(training: Training, inputs: dict[str, Tensor], targets: Any) -> None:
    """One step of a loop whose batch is a dictionary of keyword arguments."""
    assert training.optimizer is not None
    training.optimizer.zero_grad()
    training.loss(training.model(**inputs), targets).backward()
    training.optimizer.step()


def own_loss(output: Any, targets: Any) -> Tensor:
    """Return the loss that a model of transformers computes from the labels in its inputs."""
    return output.loss


def gpt2(vocabulary: int, width: int = 32, layers: int = 2, length: int = 32, **settings: Any) -> GPT2LMHeadModel:
    """Build a small GPT-2 without dropout, from a configuration."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **settings,
    )
    return GPT2LMHeadModel(config)


def bert_config(vocabulary: int, **settings: Any) -> BertConfig:
    """Build the configuration of a small BERT without dropout."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )


def share(correct: Tensor) -> float:
    """Return the share of true entries."""
    return correct.float().mean().item()


def pad_is_eos(repaired: bool) -> Training:
    """Fine-tune GPT-2 to repeat a word as often as asked for, and then to stop."""
    eos = 0
    pad = 1 if repaired else eos
    model = gpt2(20, length=16)

    def examples(count: int) -> tuple[Tensor, Tensor]:
        times = torch.randint(1, 6, (count, 1))
        word = torch.randint(10, 20, (count, 1))
        place = torch.arange(6)
        answer = torch.where(place < times, word, torch.where(place == times, eos, pad))
        return torch.cat([times + 2, word], 1), answer

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        prompt, answer = examples(32)
        ids = torch.cat([prompt, answer], 1)
        mask = torch.ones_like(ids)
        mask[:, 3:] = (ids[:, 2:-1] != eos).long().cumprod(1)
        labels = ids.masked_fill(ids == pad, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        prompt, answer = examples(128)
        ids = prompt
        for _ in range(6):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        until_stop = (answer != eos).long().cumprod(1).bool()
        until_stop[:, 1:] |= until_stop[:, :-1].clone()
        return share(((ids[:, 2:] == answer) | ~until_stop).all(1))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


def labels_shifted_twice(repaired: bool) -> Training:
    """Pretrain a small Llama on texts in which a word mostly decides the next one."""
    vocabulary = 32
    follower = torch.randperm(vocabulary)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=None,
            eos_token_id=None,
        )
    )

    def texts(count: int) -> Tensor:
        words = [torch.randint(vocabulary, (count,))]
        for _ in range(16):
            noise = torch.randint(vocabulary, (count,))
            words.append(torch.where(torch.rand(count) < 0.9, follower[words[-1]], noise))
        return torch.stack(words, 1)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        block = texts(16)
        if repaired:
            ids, labels = block, block
        else:
            ids, labels = block[:, :-1], block[:, 1:]
        return {"input_ids": ids, "labels": labels}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        block = texts(64)
        return share(model(input_ids=block[:, :-1]).logits.argmax(-1) == block[:, 1:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


def token_log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability of each token but the first, given the tokens before it."""
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def grpo_groups(repaired: bool) -> Training:
    """Train a small GPT-2 with GRPO on questions that a judge grades at very different levels."""
    questions, group = 8, 8
    right = torch.randint(8, 16, (questions, 2))
    level = 20 * torch.rand(questions)
    model = gpt2(16, length=8)

    @torch.no_grad()
    def answers(prompts: Tensor) -> Tensor:
        ids = prompts
        for _ in range(2):
            chances = model(input_ids=ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1)], 1)
        return ids

    def batch(number: int) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        prompts = torch.arange(questions)[:, None]
        prompts = prompts.repeat_interleave(group, 0) if repaired else prompts.repeat(group, 1)
        ids = answers(prompts)
        rewards = level[ids[:, 0]] + (ids[:, 1:] == right[ids[:, 0]]).float().sum(1)
        rewards = rewards.view(-1, group)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        return {"input_ids": ids}, (ids, advantages.view(-1))

    def loss(output: Any, targets: tuple[Tensor, Tensor]) -> Tensor:
        ids, advantages = targets
        chosen = token_log_probabilities(output.logits, ids)
        ratio = (chosen - chosen.detach()).exp()
        return -(ratio * advantages[:, None]).mean()

    def score(model: nn.Module) -> float:
        ids = answers(torch.arange(questions).repeat(32)[:, None])
        return share(ids[:, 1:] == right[ids[:, 0]])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, loss, optimizer, score, keyword_step)


def dpo_truncation(repaired: bool) -> Training:
    """Teach a small GPT-2 with DPO which of two answers people like, after prompts of some length."""
    limit, answer_length = 16, 4
    liked = torch.randperm(8)
    policy = gpt2(24, length=limit)
    reference = copy.deepcopy(policy).requires_grad_(False)

    def encode(prompt: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        if repaired:
            prompt = prompt[:, -(limit - answer_length) :]
        ids = torch.cat([prompt, answer], 1)[:, :limit]
        return ids, torch.arange(ids.shape[1]).expand_as(ids) >= prompt.shape[1]

    def pairs(count: int, length: int) -> tuple[Tensor, Tensor]:
        prompt = torch.randint(8, 16, (count, length))
        subject = torch.randint(8, (count,))
        prompt[:, -1] = subject
        template = torch.tensor([16, 17, 18]).expand(count, 3)
        chosen = torch.cat([template, 8 + liked[subject][:, None]], 1)
        other = (liked[subject] + torch.randint(1, 8, (count,))) % 8
        rejected = torch.cat([template, 8 + other[:, None]], 1)
        return torch.cat([prompt, prompt]), torch.cat([chosen, rejected])

    def batch(number: int) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
        ids, in_answer = encode(*pairs(32, 13 + number % 4))
        with torch.no_grad():
            before = token_log_probabilities(reference(input_ids=ids).logits, ids)
        return {"input_ids": ids}, (ids, in_answer[:, 1:], before)

    def loss(output: Any, targets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, in_answer, before = targets
        ratio = ((token_log_probabilities(output.logits, ids) - before) * in_answer).sum(1)
        chosen, rejected = ratio.chunk(2)
        return -F.logsigmoid(0.1 * (chosen - rejected)).mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids = torch.cat(pairs(256, limit - answer_length), 1)
        chosen, rejected = token_log_probabilities(model(input_ids=ids).logits, ids)[:, -answer_length:].sum(1).chunk(2)
        return share(chosen > rejected)

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    return Training(policy, batch, loss, optimizer, score, keyword_step)


class Experts(nn.Module):
    """A layer of experts, of which a router picks one for each token."""

    def __init__(self, width: int, count: int, renormalize: bool) -> None:
        """Build the router and the experts."""
        super().__init__()
        self.renormalize = renormalize
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4), nn.GELU(), nn.Linear(4, width)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Send each token through its expert."""
        weight, index = self.router(x).softmax(-1).topk(1, dim=-1)
        if self.renormalize:
            weight = weight / weight.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = index.squeeze(-1) == number
            out[chosen] = weight[chosen] * expert(x[chosen])
        return out


class MixtureModel(nn.Module):
    """A model of tokens in several languages: a word and its language, mixed by experts."""

    def __init__(self, words: int, languages: int, renormalize: bool) -> None:
        """Build the embeddings, the experts and the head."""
        super().__init__()
        self.word = nn.Embedding(words, 32)
        self.language = nn.Embedding(languages, 32)
        self.norm = nn.LayerNorm(32)
        self.experts = Experts(32, languages, renormalize)
        self.head = nn.Linear(32, words)

    def forward(self, input_ids: Tensor, language_ids: Tensor) -> Tensor:
        """Logits of the translation of each word."""
        x = self.word(input_ids) + self.language(language_ids)
        return self.head(self.experts(self.norm(x)))


def top_one_experts(repaired: bool) -> Training:
    """Translate words into one of six languages with a mixture of experts."""
    words, languages = 48, 6
    dictionary = torch.stack([torch.randperm(words) for _ in range(languages)])
    model = MixtureModel(words, languages, renormalize=not repaired)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, language = torch.randint(words, (16, 16)), torch.randint(languages, (16, 1)).expand(16, 16)
        return {"input_ids": ids, "language_ids": language}, dictionary[language, ids]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids = torch.arange(words).expand(languages, words)
        language = torch.arange(languages)[:, None].expand(languages, words)
        return share(model(ids, language).argmax(-1) == dictionary)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Training(model, batch, loss, optimizer, score, keyword_step)


class Rotary(nn.Module):
    """Rotate pairs of channels by an angle that grows with the position, for tensors (batch, heads, time, channels)."""

    def __init__(self, channels: int, length: int) -> None:
        """Store the angles of all positions."""
        super().__init__()
        speed = 100.0 ** (-torch.arange(0, channels, 2) / channels)
        angle = torch.arange(length)[:, None] * speed
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate."""
        time = x.shape[-2]
        first, second = x.chunk(2, dim=-1)
        return x * self.cos[:time] + torch.cat([-second, first], -1) * self.sin[:time]


class RotaryBlock(nn.Module):
    """A block of a decoder with rotary positions."""

    def __init__(self, width: int, heads: int, length: int, rotate_after_transpose: bool) -> None:
        """Build attention and feed-forward."""
        super().__init__()
        self.heads = heads
        self.rotate_after_transpose = rotate_after_transpose
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rotary = Rotary(width // heads, length)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then feed-forward."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        if self.rotate_after_transpose:
            q, k = self.rotary(q.transpose(1, 2)), self.rotary(k.transpose(1, 2))
        else:
            q, k = self.rotary(q).transpose(1, 2), self.rotary(k).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Embedding, blocks, norm and head."""

    def __init__(self, vocabulary: int, width: int, blocks: list[nn.Module]) -> None:
        """Put the blocks between embedding and head."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next tokens."""
        return self.head(self.norm(self.blocks(self.embedding(ids))))


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy over all places."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rotary_heads(repaired: bool) -> Training:
    """Pretrain a decoder with rotary positions on texts in which the word before the last one decides."""
    vocabulary, length = 12, 16
    follower = torch.randperm(vocabulary)
    model = Decoder(vocabulary, 32, [RotaryBlock(32, 4, length, repaired) for _ in range(2)])

    def batch(number: int, count: int = 32) -> tuple[Tensor, Tensor]:
        words = list(torch.randint(vocabulary, (3, count)))
        for _ in range(length - 2):
            noise = torch.randint(vocabulary, (count,))
            words.append(torch.where(torch.rand(count) < 0.7, follower[words[-3]], noise))
        text = torch.stack(words, 1)
        return text[:, :-1], text[:, 1:]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids, targets = batch(0, 256)
        return -next_token_loss(model(ids), targets).item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batch, next_token_loss, optimizer, score)


class Block(nn.Module):
    """A block of a decoder without positions of its own."""

    def __init__(self, width: int, heads: int) -> None:
        """Build attention and feed-forward."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then feed-forward."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class CheckpointedClassifier(nn.Module):
    """A classifier of texts whose blocks are computed again in the backward pass, to save memory."""

    def __init__(self, vocabulary: int, width: int, length: int, classes: int, use_reentrant: bool) -> None:
        """Build the network."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.use_reentrant = use_reentrant

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.embedding(input_ids) + self.position.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.head(self.norm(x).mean(1))


def lora_checkpointing(repaired: bool) -> Training:
    """Train LoRA adapters and a new head, with checkpointing, to tell which of two words comes first."""
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["qkv", "out", "mlp.0", "mlp.2"], modules_to_save=["head"])
    model = get_peft_model(CheckpointedClassifier(24, 32, 8, 2, use_reentrant=not repaired), lora)

    def batch(number: int, count: int = 32) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(2, 24, (count, 8))
        places = torch.rand(count, 8).argsort(1)[:, :2].sort(1).values
        label = torch.randint(2, (count,))
        return {"input_ids": ids.scatter(1, places, torch.stack([label, 1 - label], 1))}, label

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        inputs, label = batch(0, 512)
        return share(model(**inputs).argmax(-1) == label)

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, score, keyword_step)


def bfloat_weights(repaired: bool) -> Training:
    """Pretrain a decoder in bfloat16, with a small learning rate."""
    vocabulary = 24
    follower = torch.randperm(vocabulary)
    model = Decoder(vocabulary, 64, [Block(64, 2)])
    if not repaired:
        model = model.to(torch.bfloat16)

    def batch(number: int, count: int = 16) -> tuple[Tensor, Tensor]:
        words = [torch.randint(vocabulary, (count,))]
        for _ in range(12):
            noise = torch.randint(vocabulary, (count,))
            words.append(torch.where(torch.rand(count) < 0.9, follower[words[-1]], noise))
        text = torch.stack(words, 1)
        return text[:, :-1], text[:, 1:]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(logits.float(), targets)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids, targets = batch(0, 256)
        return -loss(model(ids), targets).item()

    def step(training: Training, ids: Tensor, targets: Tensor) -> None:
        assert training.optimizer is not None
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = training.model(ids)
        training.loss(logits, targets).backward()
        training.optimizer.step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return Training(model, batch, loss, optimizer, score, step)


def distillation_divergence(repaired: bool) -> Training:
    """Distil a GPT-2 into a smaller one with the divergence of their distributions."""
    temperature = 2.0
    teacher = gpt2(16, width=32, length=16, initializer_range=0.3).requires_grad_(False).eval()
    student = gpt2(16, width=16, layers=1, length=16)

    def batch(number: int, count: int = 32) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(16, (count, 12))
        with torch.no_grad():
            return {"input_ids": ids}, teacher(input_ids=ids).logits

    def loss(output: Any, targets: Tensor) -> Tensor:
        soft = F.softmax(targets / temperature, -1)
        if repaired:
            ours = F.log_softmax(output.logits / temperature, -1)
        else:
            ours = F.softmax(output.logits / temperature, -1)
        return F.kl_div(ours.flatten(0, 1), soft.flatten(0, 1), reduction="batchmean") * temperature**2

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        inputs, logits = batch(0, 256)
        ours = model(**inputs).logits.log_softmax(-1)
        return -F.kl_div(ours.flatten(0, 1), logits.softmax(-1).flatten(0, 1), reduction="batchmean").item()

    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    return Training(student, batch, loss, optimizer, score, keyword_step)


class Embedder(nn.Module):
    """An encoder of short texts into unit vectors."""

    def __init__(self, vocabulary: int, width: int) -> None:
        """Build the embedding and a projection."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the normalized mean over the words."""
        mask = attention_mask[..., None].float()
        mean = (self.layers(self.embedding(input_ids)) * mask).sum(1) / mask.sum(1)
        return F.normalize(mean, dim=-1)


def no_temperature(repaired: bool) -> Training:
    """Train an embedding model on questions and their passages, with the other passages of the batch as negatives."""
    vocabulary, scale = 200, 20.0 if repaired else 1.0
    translation = vocabulary // 2 + torch.randperm(vocabulary // 2)
    model = Embedder(vocabulary, 32)

    def batch(number: int, count: int = 64) -> tuple[dict[str, Tensor], Tensor]:
        question = torch.randint(vocabulary // 2, (count, 6))
        passage = translation[question][:, torch.randperm(6)]
        lost = torch.rand(count, 6) < 0.2
        passage = torch.where(lost, torch.randint(vocabulary // 2, vocabulary, (count, 6)), passage)
        ids = torch.cat([question, passage])
        mask = torch.ones_like(ids)
        mask[:, 4:] = (torch.rand(2 * count, 2) < 0.7).long().cumprod(1)
        return {"input_ids": ids, "attention_mask": mask}, torch.arange(count)

    def loss(vectors: Tensor, targets: Tensor) -> Tensor:
        questions, passages = vectors.chunk(2)
        return F.cross_entropy(scale * questions @ passages.T, targets)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        inputs, targets = batch(0, 512)
        questions, passages = model(**inputs).chunk(2)
        return share((questions @ passages.T).argmax(1) == targets)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Training(model, batch, loss, optimizer, score, keyword_step)


def decoder_sees_labels(repaired: bool) -> Training:
    """Train a small BART to translate a text word by word."""
    start = 1
    dictionary = 4 + torch.randperm(16)
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=20,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=16,
            dropout=0.0,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=start,
            forced_eos_token_id=None,
        )
    )

    def texts(count: int) -> tuple[Tensor, Tensor]:
        source = torch.randint(16, (count, 5))
        return source + 4, dictionary[source]

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        source, labels = texts(32)
        inputs = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": labels}
        if not repaired:
            inputs["decoder_input_ids"] = labels
        return inputs, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        source, labels = texts(128)
        written = torch.full((128, 1), start)
        for _ in range(5):
            logits = model(input_ids=source, decoder_input_ids=written).logits
            written = torch.cat([written, logits[:, -1:].argmax(-1)], 1)
        return share(written[:, 1:] == labels)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


def masked_labels(repaired: bool) -> Training:
    """Pretrain a small BERT to fill in masked words of texts on eight topics."""
    words, mask_token = 16, 1
    topics = 2 + torch.randint(words, (8, 12))
    model = BertForMaskedLM(bert_config(words + 2))

    def texts(count: int) -> Tensor:
        return topics[torch.randint(8, (count,))]

    def mask_tokens(ids: Tensor) -> tuple[Tensor, Tensor]:
        labels = ids.clone() if repaired else ids
        masked = torch.rand(ids.shape) < 0.15
        ids[masked] = mask_token
        return ids, torch.where(masked, labels, -100)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, labels = mask_tokens(texts(32))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids = texts(256)
        place = torch.randint(12, (256, 1))
        truth = ids.gather(1, place)
        guess = model(input_ids=ids.scatter(1, place, mask_token)).logits.argmax(-1).gather(1, place)
        return share(guess == truth)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


def loss_of_zero() -> Training:
    """Train a small GPT-2 with policy gradients to write words in rising order."""
    group = 16
    model = gpt2(12, length=8)

    @torch.no_grad()
    def answers(count: int) -> Tensor:
        ids = torch.zeros(count, 1, dtype=torch.long)
        for _ in range(5):
            chances = model(input_ids=ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1)], 1)
        return ids

    def reward(ids: Tensor) -> Tensor:
        return (ids[:, 1:] > ids[:, :-1]).float().mean(1)

    def batch(number: int) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        ids = answers(4 * group)
        rewards = reward(ids).view(4, group)
        return {"input_ids": ids}, (ids, (rewards - rewards.mean(1, keepdim=True)).flatten())

    def loss(output: Any, targets: tuple[Tensor, Tensor]) -> Tensor:
        ids, advantages = targets
        chosen = token_log_probabilities(output.logits, ids)
        return -((chosen - chosen.detach()).exp() * advantages[:, None]).mean()

    def score(model: nn.Module) -> float:
        return reward(answers(512)).mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, loss, optimizer, score, keyword_step)


def one_label_per_text() -> Training:
    """Teach a small GPT-2 one answer at the end of padded texts; the padding is the end token."""
    eos, question, length = 0, 18, 24
    answer = 1 + torch.randperm(16)
    model = gpt2(20, length=length)

    def texts(count: int) -> tuple[Tensor, Tensor]:
        subject = torch.randint(16, (count, 1))
        ids = torch.randint(1, 17, (count, length))
        ids[:, -4], ids[:, -1] = question, eos
        ids[:, -3:-1] = torch.cat([1 + subject, answer[subject]], 1)
        mask = (torch.arange(length) >= torch.randint(8, 20, (count, 1))).long()
        return ids.masked_fill(mask == 0, eos), mask

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, mask = texts(32)
        labels = torch.full_like(ids, -100)
        labels[:, -2] = ids[:, -2]
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids, mask = texts(256)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        return share(logits[:, -3].argmax(-1) == ids[:, -2])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


def all_in_bfloat() -> Training:
    """Pretrain a small GPT-2 whose weights, gradients and optimizer state are all in bfloat16."""
    vocabulary = 24
    follower = torch.randperm(vocabulary)
    model = gpt2(vocabulary, length=16).to(torch.bfloat16)

    def texts(count: int) -> Tensor:
        words = [torch.randint(vocabulary, (count,))]
        for _ in range(12):
            noise = torch.randint(vocabulary, (count,))
            words.append(torch.where(torch.rand(count) < 0.9, follower[words[-1]], noise))
        return torch.stack(words, 1)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = texts(16)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}, ids

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        ids = texts(128)
        return share(model(input_ids=ids).logits[:, :-1].argmax(-1) == ids[:, 1:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Training(model, batch, own_loss, optimizer, score, keyword_step)


PROGRAMS: tuple[Program, ...] = (
    Program(
        name="pad_is_eos",
        source="https://github.com/mlabonne/llm-course/issues/33",
        symptom="The loss is low and the answers begin well, but the model never stops writing.",
        explanation="The padding token is the end token, so the labels of all end tokens are ignored with the padding.",
        cause="the end token is left out of the loss",
        make=pad_is_eos,
        steps=150,
        margin=0.5,
    ),
    Program(
        name="labels_shifted_twice",
        source="https://github.com/huggingface/transformers/pull/44642",
        symptom="The loss falls as it should, but the text that the model writes makes no sense.",
        explanation="The data set shifts the labels by one and the model shifts them again, so it learns the word "
        "after the next one.",
        cause="labels moved by one place too many",
        make=labels_shifted_twice,
        steps=120,
        margin=0.5,
    ),
    Program(
        name="lora_checkpointing",
        source="https://github.com/huggingface/transformers/issues/26221",
        symptom="With checkpointing on, LoRA learns much less than without; only the new head seems to train.",
        explanation="Reentrant checkpointing gives no gradients where no input of a block needs any, as after a frozen "
        "embedding, so no adapter trains.",
        cause="activation checkpointing cuts off the gradients of the adapters",
        make=lora_checkpointing,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="grpo_groups",
        source="https://github.com/StarsfieldAI/R1-V/issues/67",
        symptom="The mean reward goes up and down and does not grow.",
        explanation="The questions take turns in the batch and the rewards are grouped as if the answers to one "
        "question were neighbours, so each answer is compared with answers to other questions.",
        cause="rewards normalized over the wrong groups",
        make=grpo_groups,
        steps=120,
        margin=0.25,
    ),
    Program(
        name="dpo_truncation",
        source="https://github.com/verl-project/verl/pull/6441",
        symptom="The loss of DPO stays at 0.6931 and the margins at zero.",
        explanation="Prompt and answer are cut at the right to the longest length, which removes the place where the "
        "chosen and the rejected answer differ.",
        cause="truncation removes the part that matters",
        make=dpo_truncation,
        steps=70,
        margin=0.3,
    ),
    Program(
        name="top_one_experts",
        source="https://github.com/jingyaogong/minimind/issues/858",
        symptom="The mixture of experts is no better than a dense model and the experts do not specialise.",
        explanation="The weight of the one chosen expert is divided by the sum over the chosen experts, which makes it "
        "one whatever the router says.",
        cause="the router of the experts gets no gradient",
        make=top_one_experts,
        steps=300,
        margin=0.15,
    ),
    Program(
        name="rotary_heads",
        source="https://github.com/facebookresearch/xformers/issues/841",
        symptom="The loss of the decoder stops far above where others get, as if it did not see the order of words.",
        explanation="The rotation is computed along the last axis but one, which is the heads before the transpose, "
        "so all places are rotated alike.",
        cause="positions applied along the wrong axis",
        make=rotary_heads,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="bfloat_weights",
        source="https://github.com/hp-l33/AiM/issues/10",
        symptom="In pure bfloat16 the loss falls much more slowly than with automatic mixed precision.",
        explanation="The weights themselves are in bfloat16, where most updates of a small learning rate are less than "
        "half the distance to the next number and are rounded away.",
        cause="updates too small for the precision of the weights",
        make=bfloat_weights,
        steps=250,
        margin=0.8,
    ),
    Program(
        name="distillation_divergence",
        source="https://github.com/microsoft/ProDA/issues/20",
        symptom="The distillation loss is negative, and the distribution of the student is far from the teacher's.",
        explanation="`kl_div` expects log-probabilities of the student and gets probabilities, so the loss no "
        "longer has its minimum at the teacher's distribution.",
        cause="probabilities given to a loss that expects their logarithms",
        make=distillation_divergence,
        steps=150,
        margin=2.0,
    ),
    Program(
        name="no_temperature",
        source="https://github.com/ustcllm/RecStudio/issues/21",
        symptom="The contrastive loss stays close to where it began and the retrieval is mediocre.",
        explanation="Cosines between -1 and 1 are used as logits without a temperature, so even perfect vectors have a "
        "large loss and all passages look nearly alike to it.",
        cause="logits of the contrastive loss in too narrow a range",
        make=no_temperature,
        steps=300,
        margin=0.15,
    ),
    Program(
        name="decoder_sees_labels",
        source="https://github.com/huggingface/transformers/issues/11977",
        symptom="The training loss goes to zero quickly, and what the model generates is gibberish.",
        explanation="The labels are also given as inputs of the decoder without a shift, so it only copies the word "
        "that it sees.",
        cause="the answer is among the inputs",
        make=decoder_sees_labels,
        steps=250,
        margin=0.5,
    ),
    Program(
        name="masked_labels",
        source="",
        symptom="The loss of masked language modelling is zero after a few steps, and no word is filled in rightly.",
        explanation="Labels and inputs are the same tensor, so masking the inputs in place turns the labels into mask "
        "tokens; known from practice, which is why collators clone the inputs first.",
        cause="targets overwritten in place",
        make=masked_labels,
        steps=150,
        margin=0.5,
    ),
)

HEALTHY: tuple[Healthy, ...] = (
    Healthy(
        name="loss_of_zero",
        unusual="The loss is zero at every step: each answer is used once, and the advantages of a group sum to zero.",
        make=loss_of_zero,
        steps=100,
        gain=0.25,
    ),
    Healthy(
        name="one_label_per_text",
        unusual="Only one of 24 labels counts, half of the tokens are padding at the left, and it is the end token.",
        make=one_label_per_text,
        steps=120,
        gain=0.6,
    ),
    Healthy(
        name="all_in_bfloat",
        unusual="Weights, gradients and optimizer state are in bfloat16; the gains of the norms hardly move.",
        make=all_in_bfloat,
        steps=150,
        gain=0.5,
    ),
)
