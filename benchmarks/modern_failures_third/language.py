"""Language models: pretraining, fine-tuning, preferences, experts, distillation, embeddings, images in text.

Data are made up. Where a program needs a Hugging Face network, it is a tiny one with random weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    get_linear_schedule_with_warmup,
)
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.models.bart.modeling_bart import shift_tokens_right

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training

IGNORE = -100


def tiny_gpt2(vocab: int, positions: int, width: int = 32, layers: int = 1, heads: int = 2, **more: Any) -> GPT2Config:
    """Configuration of a GPT-2 that trains in seconds."""
    return GPT2Config(
        vocab_size=vocab,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        **more,
    )


def keyword_step(training: Training, inputs: dict[str, Any], targets: Any) -> None:
    """A step of a trainer whose collator makes dictionaries."""
    assert training.optimizer is not None
    training.model.train()
    training.optimizer.zero_grad()
    loss = training.loss(training.model(**inputs), targets)
    loss.backward()
    training.optimizer.step()


def clipped_step(training: Training, inputs: dict[str, Any], targets: Any) -> None:
    """The same with the usual clipping."""
    assert training.optimizer is not None
    training.model.train()
    training.optimizer.zero_grad()
    loss = training.loss(training.model(**inputs), targets)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in training.model.parameters() if p.requires_grad], 1.0)
    training.optimizer.step()


def shifted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token loss."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1), ignore_index=IGNORE)


# --------------------------------------------------------------------------------------------------------------------
# 1. The end-of-text token is masked out of the labels together with the padding.


def make_end_of_text(repaired: bool) -> Training:
    """Supervised fine-tuning: a list that has to end after its highest element."""
    pad_id = eos_id = 0  # tokenizer.pad_token = tokenizer.eos_token
    vocab, length = 14, 14

    def texts(number: int) -> list[list[int]]:
        rows = []
        for _ in range(number):
            size = int(torch.randint(3, 8, ()))
            start = int(torch.randint(2, 6, ()))
            rows.append([1, start, 6 + size - 2, *[(start + i) % 4 + 2 for i in range(size)], eos_id])
        return rows

    def collate(rows: list[list[int]]) -> tuple[dict[str, Tensor], Tensor]:
        input_ids = torch.full((len(rows), length), pad_id)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
            attention_mask[i, : len(row)] = 1
        labels = input_ids.clone()
        if repaired:
            labels[attention_mask == 0] = IGNORE
        else:
            labels[labels == pad_id] = IGNORE
        return {"input_ids": input_ids, "attention_mask": attention_mask}, labels

    model = GPT2LMHeadModel(tiny_gpt2(vocab, 24, width=48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    @torch.no_grad()
    def ends_in_time(network: nn.Module) -> float:
        network.eval()
        good = 0
        rows = texts(48)
        for size in range(3, 8):
            group = [row for row in rows if len(row) == size + 4]
            if not group:
                continue
            ids = torch.tensor([row[:3] for row in group])
            for _ in range(size + 1):
                ids = torch.cat([ids, network(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
            stop = (ids[:, 3:] == eos_id).float()
            good += int(((stop.sum(1) == 1) & (stop[:, -1] == 1)).sum())
        return good / len(rows)

    return Training(
        model,
        lambda number: collate(texts(32)),
        lambda outputs, labels: shifted_cross_entropy(outputs.logits, labels),
        optimizer,
        ends_in_time,
        step=keyword_step,
    )


# --------------------------------------------------------------------------------------------------------------------
# 2. Labels of an encoder-decoder are shifted twice.


class Seq2Seq(nn.Module):
    """Encoder and decoder with a head; the decoder inputs are the labels, moved to the right."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.model = BartModel(
            BartConfig(
                vocab_size=vocab,
                d_model=width,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=2 * width,
                decoder_ffn_dim=2 * width,
                max_position_embeddings=16,
                dropout=0.0,
                init_std=0.1,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                use_cache=False,
            )
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        decoder_input_ids = shift_tokens_right(labels, 0, 1)
        return self.lm_head(self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).last_hidden_state)


def make_shifted_twice(repaired: bool) -> Training:
    """Translation of made-up words, in their order."""
    vocab, length = 20, 7
    dictionary = torch.randperm(vocab - 3) + 3

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        source = torch.randint(3, vocab, (32, length))
        labels = torch.cat([dictionary[source - 3], torch.full((32, 1), 2)], 1)
        source = torch.cat([source, torch.full((32, 1), 2)], 1)
        return {"input_ids": source, "labels": labels}, labels

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if repaired:
            return F.cross_entropy(logits.reshape(-1, vocab), labels.reshape(-1))
        return ForCausalLMLoss(logits=logits, labels=labels, vocab_size=vocab)

    model = Seq2Seq(vocab, 48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    @torch.no_grad()
    def translated(network: nn.Module) -> float:
        network.eval()
        inputs, labels = batch(0)
        answer = torch.zeros_like(labels)
        for position in range(labels.size(1)):  # greedy; positions not yet decoded are not seen
            answer[:, position] = network(input_ids=inputs["input_ids"], labels=answer)[:, position].argmax(-1)
        return (answer == labels).float().mean().item()

    return Training(model, batch, loss, optimizer, translated, step=keyword_step)


# --------------------------------------------------------------------------------------------------------------------
# 3. Adapters in blocks that are checkpointed reentrantly, under frozen embeddings.


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank update."""

    def __init__(self, base: nn.Linear, rank: int, alpha: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(x)) * self.scaling


class DecoderLayer(nn.Module):
    """Causal attention and a feed-forward net."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv_proj, self.o_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up_proj, self.down_proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        size, length, width = x.shape
        q, k, v = self.qkv_proj(self.input_layernorm(x)).view(size, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(attended.transpose(1, 2).reshape(size, length, width))
        return x + self.down_proj(F.gelu(self.up_proj(self.post_attention_layernorm(x))))


class SequenceClassifier(nn.Module):
    """A decoder with a score for the last token."""

    def __init__(self, vocab: int, width: int, layers: int, context: int, classes: int) -> None:
        super().__init__()
        self.embed_tokens, self.embed_positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(DecoderLayer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, classes)
        self.gradient_checkpointing = False
        self.input_require_grads = False

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed_tokens(input_ids) + self.embed_positions(torch.arange(input_ids.size(1)))
        if self.input_require_grads and self.training:
            hidden.requires_grad_(True)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(layer, hidden, use_reentrant=True)
            else:
                hidden = layer(hidden)
        return self.score(self.norm(hidden[:, -1]))


def make_checkpointed_adapters(repaired: bool) -> Training:
    """Find the word after the marker: needs attention that the backbone does not have."""
    vocab, length, classes, marker = 12, 8, 6, 0
    model = SequenceClassifier(vocab, 48, 2, length + 1, classes)
    model.requires_grad_(False)
    for layer in model.layers:
        for name in ("qkv_proj", "o_proj", "up_proj", "down_proj"):
            setattr(layer, name, LoraLinear(getattr(layer, name), 8, 16))
    model.score.requires_grad_(True)
    model.gradient_checkpointing = True
    model.input_require_grads = repaired
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    def batch(number: int, size: int = 32) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(1, vocab - 1, (size, length))
        where = torch.randint(0, length - 1, (size,))
        rows = torch.arange(size)
        labels = torch.randint(0, classes, (size,))
        ids[rows, where] = marker
        ids[rows, where + 1] = labels + 1
        return {"input_ids": torch.cat([ids, torch.full((size, 1), vocab - 1)], 1)}, labels

    @torch.no_grad()
    def accuracy(network: nn.Module) -> float:
        network.eval()
        inputs, labels = batch(0, 256)
        return (network(**inputs).argmax(-1) == labels).float().mean().item()

    return Training(model, batch, F.cross_entropy, optimizer, accuracy, step=keyword_step)


# --------------------------------------------------------------------------------------------------------------------
# 4. The optimizer is made before the vocabulary grows.


def add_tokens(model: GPT2LMHeadModel, number: int) -> None:
    """Grow the embedding; new tokens begin at the mean of the old ones."""
    old = model.get_input_embeddings()
    new = nn.Embedding(old.num_embeddings + number, old.embedding_dim)
    with torch.no_grad():
        new.weight[: old.num_embeddings] = old.weight
        new.weight[old.num_embeddings :] = old.weight.mean(0)
    model.set_input_embeddings(new)
    model.config.vocab_size = new.num_embeddings
    model.lm_head = nn.Linear(new.embedding_dim, new.num_embeddings, bias=False)
    model.lm_head.weight = new.weight


def make_grown_vocabulary(repaired: bool) -> Training:
    """Tool calls: each request is answered by one of the added tokens."""
    words, tools, length = 16, 8, 6
    model = GPT2LMHeadModel(tiny_gpt2(words, 12, width=48))
    route = torch.randint(0, tools, (words,))
    route[:tools] = torch.randperm(tools)

    if repaired:
        add_tokens(model, tools)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        add_tokens(model, tools)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        text = torch.randint(0, words, (32, length))
        text[:, 1::2] = (text[:, ::2] + 1) % words
        tool = words + route[text[:, -1]]
        ids = torch.cat([text, tool[:, None], text[:, :1]], 1)
        return {"input_ids": ids}, ids

    @torch.no_grad()
    def right_tool(network: nn.Module) -> float:
        network.eval()
        inputs, ids = batch(0)
        return (network(**inputs).logits[:, length - 1].argmax(-1) == ids[:, length]).float().mean().item()

    return Training(
        model,
        batch,
        lambda outputs, labels: shifted_cross_entropy(outputs.logits, labels),
        optimizer,
        right_tool,
        step=clipped_step,
    )


# --------------------------------------------------------------------------------------------------------------------
# 5. Preferences relative to a reference that is the policy itself.


def sequence_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each completion."""
    labels = labels[:, 1:]
    logps = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (logps * (labels != IGNORE)).sum(-1)


def make_own_reference(repaired: bool) -> Training:
    """DPO of an adapter; the reference is the base under it."""
    vocab, prompt, answer, pairs, beta = 16, 3, 5, 32, 0.5
    policy = get_peft_model(
        GPT2LMHeadModel(tiny_gpt2(vocab, prompt + answer, width=32, initializer_range=0.3)),
        LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, lora_dropout=0.0),
    )
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=3e-3)

    def preferences() -> tuple[Tensor, Tensor]:
        """Raters prefer answers with more polite words; one choice in five is the other way round."""
        prompts = torch.randint(0, vocab, (pairs, prompt))
        first, second = torch.randint(0, vocab, (2, pairs, answer))
        politeness = [(words < vocab // 2).float().sum(1) + 0.1 * words[:, 0] / vocab for words in (first, second)]
        swap = (politeness[0] < politeness[1]) ^ (torch.rand(pairs) < 0.2)
        chosen = torch.where(swap[:, None], second, first)
        rejected = torch.where(swap[:, None], first, second)
        ids = torch.cat([torch.cat([prompts, chosen], 1), torch.cat([prompts, rejected], 1)])
        labels = ids.clone()
        labels[:, :prompt] = IGNORE
        return ids, labels

    @torch.no_grad()
    def reference_logps(ids: Tensor, labels: Tensor, base: bool) -> Tensor:
        if base:
            with policy.disable_adapter():
                return sequence_logps(policy(input_ids=ids).logits, labels)
        return sequence_logps(policy(input_ids=ids).logits, labels)

    def batch(number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ids, labels = preferences()
        return {"input_ids": ids}, {"labels": labels, "ref_logps": reference_logps(ids, labels, base=repaired)}

    def dpo_loss(outputs: Any, targets: dict[str, Tensor]) -> Tensor:
        logps = sequence_logps(outputs.logits, targets["labels"])
        rewards = beta * (logps - targets["ref_logps"])
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected).mean()

    @torch.no_grad()
    def held_out(network: nn.Module) -> float:
        network.eval()
        losses = []
        for _ in range(8):
            ids, labels = preferences()
            targets = {"labels": labels, "ref_logps": reference_logps(ids, labels, base=True)}
            losses.append(dpo_loss(network(input_ids=ids), targets))
        return -torch.stack(losses).mean().item()

    return Training(policy, batch, dpo_loss, optimizer, held_out, step=clipped_step)


# --------------------------------------------------------------------------------------------------------------------
# 6. Completions of different prompts are normalised as one group.


class TokenPolicy(nn.Module):
    """A small causal policy over tokens."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.rnn(self.embed(input_ids))[0])


@torch.no_grad()
def generate(policy: nn.Module, ids: Tensor, new: int, sample: bool = True) -> Tensor:
    """Continue the prompts."""
    for _ in range(new):
        probs = policy(input_ids=ids)[:, -1].softmax(-1)
        token = torch.multinomial(probs, 1) if sample else probs.argmax(-1, keepdim=True)
        ids = torch.cat([ids, token], 1)
    return ids


def answers_right(ids: Tensor, vocab: int) -> Tensor:
    """Share of the answer that repeats the question one up."""
    return (ids[:, 1:] == (ids[:, :1] + 1) % vocab).float().mean(1)


def grpo_loss(logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Clipped objective of sampled completions."""
    new = targets["completions"].size(1)
    logps = logits[:, -new - 1 : -1].log_softmax(-1).gather(-1, targets["completions"][..., None]).squeeze(-1)
    ratio = (logps - targets["old_logps"]).exp()
    advantages = targets["advantages"][:, None]
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def make_mixed_groups(repaired: bool) -> Training:
    """GRPO: some prompts are easy and pay well whatever is said."""
    vocab, new, group, prompts = 8, 3, 8, 8
    policy = TokenPolicy(vocab, 32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)

    def reward(ids: Tensor) -> Tensor:
        return answers_right(ids, vocab) + 2.0 * (ids[:, 0] % 4).float()

    def batch(number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        questions = torch.randint(0, vocab, (prompts, 1))
        repeated = questions.repeat_interleave(group, 0) if repaired else questions.repeat(group, 1)
        ids = generate(policy, repeated, new)
        rewards = reward(ids).view(-1, group)
        mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
        advantages = ((rewards - mean) / (std + 1e-4)).view(-1)
        completions = ids[:, -new:]
        with torch.no_grad():
            logits = policy(input_ids=ids)[:, -new - 1 : -1]
            old_logps = logits.log_softmax(-1).gather(-1, completions[..., None]).squeeze(-1)
        return {"input_ids": ids}, {"completions": completions, "advantages": advantages, "old_logps": old_logps}

    def right(network: nn.Module) -> float:
        network.eval()
        return answers_right(generate(network, torch.arange(vocab)[:, None], new, sample=False), vocab).mean().item()

    return Training(policy, batch, grpo_loss, optimizer, right, step=clipped_step)


# --------------------------------------------------------------------------------------------------------------------
# 7. Distillation: probabilities where the loss wants log-probabilities.


def make_distillation(repaired: bool) -> Training:
    """A small student of a larger teacher."""
    vocab, length, temperature = 24, 8, 1.0
    teacher = GPT2LMHeadModel(tiny_gpt2(vocab, length, width=48, initializer_range=0.3)).eval().requires_grad_(False)
    student = GPT2LMHeadModel(tiny_gpt2(vocab, length, width=32))
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(0, vocab, (32, length))
        with torch.no_grad():
            teacher_logits = teacher(input_ids=ids).logits
        return {"input_ids": ids}, teacher_logits

    def kd_loss(outputs: Any, teacher_logits: Tensor) -> Tensor:
        student_logits = outputs.logits.view(-1, vocab) / temperature
        teacher_probs = F.softmax(teacher_logits.view(-1, vocab) / temperature, dim=-1)
        student_probs = F.log_softmax(student_logits, dim=-1) if repaired else F.softmax(student_logits, dim=-1)
        return F.kl_div(student_probs, teacher_probs, reduction="batchmean") * temperature**2

    @torch.no_grad()
    def divergence(network: nn.Module) -> float:
        network.eval()
        inputs, logits = batch(0)
        log_probs = network(**inputs).logits.log_softmax(-1)
        return -F.kl_div(log_probs, logits.softmax(-1), reduction="none").sum(-1).mean().item()

    return Training(student, batch, kd_loss, optimizer, divergence, step=keyword_step)


# --------------------------------------------------------------------------------------------------------------------
# 8. A router whose only weight is always one.


class MoELayer(nn.Module):
    """Each token goes to its best expert, weighted with the probability of the router."""

    def __init__(self, width: int, experts: int, top_k: int, norm_topk_prob: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.top_k = top_k
        self.norm_topk_prob = norm_topk_prob

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        scores = self.gate(x).softmax(-1)
        weight, index = scores.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, slot = (index == number).nonzero(as_tuple=True)
            out = out.index_add(0, token, expert(x[token]) * weight[token, slot, None])
        load = F.one_hot(index, len(self.experts)).float().sum(1).mean(0)
        aux_loss = (load * scores.mean(0)).sum() * len(self.experts)
        return out.view(shape), aux_loss


class MoELanguageModel(nn.Module):
    """Embeds words and their language, then one sparse layer."""

    def __init__(self, vocab: int, languages: int, width: int, norm_topk_prob: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, width)
        self.languages = nn.Embedding(languages, width)
        nn.init.normal_(self.languages.weight, std=0.2)
        self.moe = MoELayer(width, languages, 1, norm_topk_prob)
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, input_ids: Tensor, language_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.words(input_ids) + self.languages(language_ids)[:, None]
        mixed, aux_loss = self.moe(hidden)
        return self.lm_head(self.norm(mixed)), aux_loss


def make_constant_router(repaired: bool) -> Training:
    """Every language has its own dictionary."""
    vocab, languages, length, coefficient = 48, 8, 8, 0.01
    dictionaries = torch.stack([torch.randperm(vocab) for _ in range(languages)])
    model = MoELanguageModel(vocab, languages, 16, norm_topk_prob=not repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        language = torch.randint(0, languages, (64,))
        ids = torch.randint(0, vocab, (64, length))
        return {"input_ids": ids, "language_ids": language}, dictionaries[language[:, None], ids]

    def loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        logits, aux_loss = outputs
        return F.cross_entropy(logits.reshape(-1, vocab), labels.reshape(-1)) + coefficient * aux_loss

    @torch.no_grad()
    def accuracy(network: nn.Module) -> float:
        network.eval()
        inputs, labels = batch(0)
        return (network(**inputs)[0].argmax(-1) == labels).float().mean().item()

    return Training(model, batch, loss, optimizer, accuracy, step=keyword_step)


# --------------------------------------------------------------------------------------------------------------------
# 9. In-batch negatives that are positives.


class SentenceEncoder(nn.Module):
    """Mean of contextual word vectors."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)

    def encode(self, ids: Tensor) -> Tensor:
        mask = ids != 0
        hidden = self.layer(self.embed(ids), src_key_padding_mask=~mask)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1)

    def forward(self, anchors: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(anchors), self.encode(positives)


def make_false_negatives(repaired: bool) -> Training:
    """Many questions about a few answers, in the order of the file: all questions to an answer in a row."""
    intents, per_intent, vocab, length, batch_size, scale = 16, 48, 120, 8, 16, 20.0
    wording = torch.randint(1, vocab, (2, intents, 6))  # questions and answers use different words

    def sentence(kind: int, intent: Tensor) -> Tensor:
        words = wording[kind, intent[:, None], torch.randint(0, 6, (len(intent), length))]
        return torch.where(torch.rand(words.shape) < 0.3, torch.randint(1, vocab, words.shape), words)

    labels = torch.arange(intents).repeat_interleave(per_intent)
    questions, answers = sentence(0, labels), sentence(1, labels)

    def indices(number: int) -> Tensor:
        if repaired:  # one pair of each intent
            return torch.arange(intents) * per_intent + torch.randint(0, per_intent, (intents,))
        start = number * batch_size % len(labels)
        return torch.arange(start, start + batch_size)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        chosen = indices(number)
        return {"anchors": questions[chosen], "positives": answers[chosen]}, torch.arange(len(chosen))

    def ranking_loss(embeddings: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        anchors, positives = embeddings
        return F.cross_entropy(anchors @ positives.T * scale, target)

    model = SentenceEncoder(vocab, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    @torch.no_grad()
    def recall(network: nn.Module) -> float:
        network.eval()
        asked = torch.arange(intents).repeat(8)
        similarity = network.encode(sentence(0, asked)) @ network.encode(answers).T
        return (labels[similarity.argmax(1)] == asked).float().mean().item()

    return Training(model, batch, ranking_loss, optimizer, recall, step=keyword_step)


# --------------------------------------------------------------------------------------------------------------------
# 10. Small steps of weights in bfloat16.


def make_bfloat16_weights(repaired: bool) -> Training:
    """Continued training with a small learning rate."""
    vocab, length = 16, 8
    successor = torch.randperm(vocab)
    model = GPT2LMHeadModel(tiny_gpt2(vocab, length, width=128, initializer_range=0.15, tie_word_embeddings=False))
    if not repaired:
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(0, vocab, (32, 1))
        for _ in range(length - 1):
            follow = successor[ids[:, -1:]]
            ids = torch.cat([ids, torch.where(torch.rand(32, 1) < 0.1, torch.randint(0, vocab, (32, 1)), follow)], 1)
        return {"input_ids": ids}, ids

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        assert training.optimizer is not None
        training.model.train()
        training.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=repaired):
            outputs = training.model(**inputs)
        training.loss(outputs, labels).backward()
        training.optimizer.step()

    @torch.no_grad()
    def log_likelihood(network: nn.Module) -> float:
        network.eval()
        losses = []
        for number in range(4):
            inputs, labels = batch(number)
            losses.append(shifted_cross_entropy(network(**inputs).logits.float(), labels).item())
        return -sum(losses) / len(losses)

    return Training(
        model,
        batch,
        lambda outputs, labels: shifted_cross_entropy(outputs.logits.float(), labels),
        optimizer,
        log_likelihood,
        step=step,
    )


# --------------------------------------------------------------------------------------------------------------------
# 11. The schedule runs with every micro-batch.


def make_hurried_schedule(repaired: bool) -> Training:
    """Token classification with gradient accumulation."""
    vocab, length, tags, accumulation, micro_batches = 40, 10, 5, 8, 160
    tag_of = torch.randint(0, tags, (vocab,))
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=vocab,
            hidden_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=96,
            max_position_embeddings=length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=tags,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    updates = micro_batches // accumulation
    scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=2, num_training_steps=updates)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(0, vocab, (8, length))
        labels = tag_of[ids]
        labels[:, 1:] = torch.where(ids[:, :-1] < 4, 0, labels[:, 1:])  # a negation changes the next word
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels

    done = 0

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        nonlocal done
        training.model.train()
        loss = training.loss(training.model(**inputs), labels) / accumulation
        loss.backward()
        done += 1
        if done % accumulation == 0:
            nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
            training.optimizer.step()
            if repaired:
                scheduler.step()
            training.optimizer.zero_grad()
        if not repaired:
            scheduler.step()

    @torch.no_grad()
    def accuracy(network: nn.Module) -> float:
        network.eval()
        right = [
            (network(**inputs).logits.argmax(-1) == labels).float().mean() for inputs, labels in map(batch, range(8))
        ]
        return torch.stack(right).mean().item()

    return Training(
        model,
        batch,
        lambda outputs, labels: F.cross_entropy(outputs.logits.view(-1, tags), labels.view(-1)),
        optimizer,
        accuracy,
        step=step,
    )


# --------------------------------------------------------------------------------------------------------------------
# 12. A boolean mask with the opposite meaning.


class SdpaAttention(nn.Module):
    """Attention of all heads in one call."""

    def __init__(self, width: int, heads: int, context: int, allowed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        mask = torch.ones(context, context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", ~mask if allowed else mask)

    def forward(self, x: Tensor) -> Tensor:
        size, length, width = x.shape
        q, k, v = self.qkv(x).view(size, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:length, :length])
        return self.proj(out.transpose(1, 2).reshape(size, length, width))


class SdpaBlock(nn.Module):
    """Attention and a feed-forward net, each behind a norm."""

    def __init__(self, width: int, heads: int, context: int, allowed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SdpaAttention(width, heads, context, allowed)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class FromScratch(nn.Module):
    """A GPT of the kind that one writes to understand it."""

    def __init__(self, vocab: int, width: int, context: int, allowed: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[SdpaBlock(width, 2, context, allowed) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.out_head = nn.Linear(width, vocab, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.size(1)))
        return self.out_head(self.norm(self.blocks(x)))


def make_inverted_mask(repaired: bool) -> Training:
    """Texts that repeat themselves after a few words."""
    vocab, period, length = 16, 3, 12
    model = FromScratch(vocab, 32, length, allowed=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(0, vocab, (32, period)).repeat(1, length // period + 1)
        return text[:, :length], text[:, 1 : length + 1]

    @torch.no_grad()
    def continues(network: nn.Module) -> float:
        network.eval()
        text, _ = batch(0)
        ids = text[:, : 2 * period]
        for _ in range(period):
            ids = torch.cat([ids, network(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        return (ids[:, 2 * period :] == text[:, 2 * period : 3 * period]).float().mean().item()

    return Training(
        model,
        batch,
        lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        optimizer,
        continues,
    )


# --------------------------------------------------------------------------------------------------------------------
# 13. The collator leaves out the images.


class VisionLanguageModel(nn.Module):
    """Frozen vision tower, projector, language model; features replace the placeholder tokens."""

    def __init__(self, vocab: int, image_token: int, patches: int, pixels: int, positions: int, width: int) -> None:
        super().__init__()
        self.image_token = image_token
        self.vision_tower = nn.Sequential(nn.Linear(pixels, 48), nn.GELU(), nn.Linear(48, 48)).requires_grad_(False)
        self.multi_modal_projector = nn.Sequential(nn.Linear(48, width), nn.GELU(), nn.Linear(width, width))
        self.language_model = GPT2LMHeadModel(tiny_gpt2(vocab, positions, width=width))

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            features = self.multi_modal_projector(self.vision_tower(pixel_values))
            where = (input_ids == self.image_token)[..., None].expand_as(embeds)
            embeds = embeds.masked_scatter(where, features.to(embeds.dtype))
        return self.language_model(inputs_embeds=embeds).logits


def make_images_left_out(repaired: bool) -> Training:
    """Captions: grammar follows from the text, what is seen only from the image."""
    vocab, patches, pixels, objects, image_token = 24, 3, 12, 8, 23
    looks = torch.randn(objects, pixels)
    use_embedded_images = True  # the processor puts images of this family into the text

    def process(images: Tensor, seen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        size = len(seen)
        caption = torch.stack([torch.full((size,), 20), 1 + seen[:, 0], torch.full((size,), 21), 9 + seen[:, 1]], 1)
        ids = torch.cat([torch.full((size, patches), image_token), caption, torch.full((size, 1), 0)], 1)
        labels = ids.masked_fill(ids == image_token, IGNORE)
        inputs = {"input_ids": ids}
        if repaired or not use_embedded_images:
            inputs["pixel_values"] = images
        return inputs, labels

    def examples(number: int) -> tuple[Tensor, Tensor]:
        seen = torch.randint(0, objects, (32, patches))
        return looks[seen] + 0.3 * torch.randn(32, patches, pixels), seen

    model = VisionLanguageModel(vocab, image_token, patches, pixels, 12, 48)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)

    @torch.no_grad()
    def describes(network: nn.Module) -> float:
        network.eval()
        images, seen = examples(0)
        inputs, labels = process(images, seen)
        guess = network(inputs["input_ids"], images).argmax(-1)
        words = [patches, patches + 2]
        return (guess[:, words] == labels[:, [w + 1 for w in words]]).float().mean().item()

    return Training(
        model, lambda number: process(*examples(number)), shifted_cross_entropy, optimizer, describes, step=keyword_step
    )


# --------------------------------------------------------------------------------------------------------------------
# 14. The reward of left-padded texts is read where the text is not.


class RewardModel(nn.Module):
    """A causal transformer with a score for the last token of the text."""

    def __init__(self, vocab: int, width: int, context: int, pad_token_id: int, any_side: bool) -> None:
        super().__init__()
        self.pad_token_id, self.any_side = pad_token_id, any_side
        self.embed, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        size, length = input_ids.shape
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        blocked = causal[None] | (attention_mask == 0)[:, None]
        blocked = blocked & ~torch.eye(length, dtype=torch.bool)  # a token may always see itself
        hidden = self.embed(input_ids) + self.positions(positions)
        hidden = self.layer(hidden, src_mask=blocked.repeat_interleave(2, 0))
        rewards = self.score(self.norm(hidden)).squeeze(-1)
        if self.any_side:
            token_indices = torch.arange(length)
            last = (token_indices * (input_ids != self.pad_token_id)).argmax(-1)
        else:
            last = torch.ne(input_ids, self.pad_token_id).sum(-1) - 1
        return rewards[torch.arange(size), last]


def make_reward_of_padding(repaired: bool) -> Training:
    """Pairs of answers; the tokenizer pads on the left because it is also used to generate."""
    vocab, length, pairs, pad = 20, 20, 32, 0
    quality = torch.randn(vocab)
    quality[pad] = 0.0

    def padded(texts: list[Tensor]) -> Tensor:
        return torch.stack([F.pad(text, (length - len(text), 0), value=pad) for text in texts])

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        sizes = torch.randint(4, 15, (2, pairs))
        texts = [[torch.randint(1, vocab, (int(size),)) for size in row] for row in sizes]
        value = torch.tensor([[quality[text].mean() for text in row] for row in texts])
        better = value[0] > value[1]
        chosen = [texts[0][i] if better[i] else texts[1][i] for i in range(pairs)]
        rejected = [texts[1][i] if better[i] else texts[0][i] for i in range(pairs)]
        ids = torch.cat([padded(chosen), padded(rejected)])
        margin = (value[0] - value[1]).abs()
        return {"input_ids": ids, "attention_mask": (ids != pad).long()}, margin

    def pairwise_loss(rewards: Tensor, margin: Tensor) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected - 0.1 * margin).mean()

    model = RewardModel(vocab, 32, length, pad, any_side=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    @torch.no_grad()
    def accuracy(network: nn.Module) -> float:
        network.eval()
        right = []
        for number in range(6):
            chosen, rejected = network(**batch(number)[0]).chunk(2)
            right.append(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())
        return torch.stack(right).mean().item()

    return Training(model, batch, pairwise_loss, optimizer, accuracy, step=keyword_step)


PROGRAMS = [
    Program(
        name="the model never stops after fine-tuning with pad = eos",
        source="https://github.com/huggingface/transformers/issues/23530",
        symptom="The loss goes down nicely, but generation runs on to the limit.",
        explanation="The padding token is the end-of-text token, and the collator masks all of them out of the labels, "
        "so that the end of a text is never a target.",
        cause="a target masked out of the loss",
        make=make_end_of_text,
        steps=150,
        margin=0.5,
    ),
    Program(
        name="an encoder-decoder with a loss for causal models",
        source="https://github.com/huggingface/transformers/issues/46897",
        symptom="Translations skip words, although the loss falls.",
        explanation="Decoder inputs are the labels moved to the right, and the loss for causal models moves them once "
        "more: each position learns the word after the next.",
        cause="labels shifted twice",
        make=make_shifted_twice,
        steps=150,
        margin=0.4,
    ),
    Program(
        name="adapters in checkpointed blocks above frozen embeddings",
        source="https://github.com/locuslab/open-unlearning/issues/178",
        symptom="The head trains, all lora_B stay zero; a warning is lost in the log.",
        explanation="Reentrant checkpointing records nothing if no input of a block requires a gradient; they are "
        "frozen embeddings, and enable_input_require_grads was not called.",
        cause="graph cut by checkpointing",
        make=make_checkpointed_adapters,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="the optimizer is older than the vocabulary",
        source="https://github.com/huggingface/transformers/pull/3532",
        symptom="The model never learns to use the added tokens.",
        explanation="Tokens are added after the optimizer was made: the embedding is new, and the optimizer keeps "
        "the old one.",
        cause="the optimizer holds parameters that were replaced",
        make=make_grown_vocabulary,
        steps=150,
        margin=0.4,
    ),
    Program(
        name="preferences relative to the policy itself",
        source="https://github.com/huggingface/trl/issues/1311",
        symptom="The loss stays at 0.693 and all rewards at 0 while the model drifts away.",
        explanation="The log-probabilities of the reference come from the network with the adapter on, so that "
        "the policy is compared with itself and nothing holds it back. The thread shows the symptom.",
        cause="the reference moves with the model",
        make=make_own_reference,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="groups of completions of different prompts",
        source="https://github.com/dllm-reasoning/d1/issues/19",
        symptom="Rewards go up and down with the prompts, and hardly rise.",
        explanation="Prompts are repeated one after the other, and rewards are reshaped as if the repetitions of each "
        "prompt were neighbours: advantages compare prompts, not completions.",
        cause="axes mixed in a reshape",
        make=make_mixed_groups,
        steps=150,
        margin=0.25,
    ),
    Program(
        name="distillation with probabilities for log-probabilities",
        source="https://github.com/microsoft/ProDA/issues/20",
        symptom="The loss is negative and the student does not come close to the teacher.",
        explanation="kl_div wants log-probabilities of the student and gets probabilities. In the thread it is the "
        "distillation of a segmentation net.",
        cause="a loss fed with the wrong quantity",
        make=make_distillation,
        steps=150,
        margin=1.0,
    ),
    Program(
        name="one expert per token with normalised weights",
        source="https://github.com/jingyaogong/minimind/issues/858",
        symptom="Experts do not specialise, and the mixture is no better than a dense net.",
        explanation="The weight of the only chosen expert is divided by itself: it is always one, and the router gets "
        "no gradient from the loss of the task.",
        cause="the router gets no gradient",
        make=make_constant_router,
        steps=250,
        margin=0.25,
    ),
    Program(
        name="in-batch negatives from a file sorted by answer",
        source="https://github.com/huggingface/sentence-transformers/issues/608",
        symptom="The ranking loss stays near the logarithm of the batch size, retrieval is poor.",
        explanation="Consecutive pairs belong to the same answer, so that all negatives in a batch are positives.",
        cause="false negatives in the batch",
        make=make_false_negatives,
        steps=144,
        margin=0.4,
    ),
    Program(
        name="small steps in pure bfloat16",
        source="https://github.com/NVIDIA-NeMo/Automodel/pull/3444",
        symptom="The loss hardly moves although gradients are fine.",
        explanation="Updates are smaller than half the distance of neighbouring bfloat16 numbers and are rounded away; "
        "there is no float32 copy of the weights.",
        cause="precision of the weights too low",
        make=make_bfloat16_weights,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="a schedule that counts micro-batches",
        source="https://github.com/starVLA/starVLA/pull/210",
        symptom="Learning stops early; the learning rate is zero after an eighth of the training.",
        explanation="The schedule is as long as the number of updates, but steps with each micro-batch.",
        cause="the learning rate ends too early",
        make=make_hurried_schedule,
        steps=160,
        margin=0.2,
    ),
    Program(
        name="a boolean mask of the positions that are not allowed",
        source="https://github.com/rasbt/LLMs-from-scratch/pull/1062",
        symptom="The loss goes to zero in no time, and generated text is nonsense.",
        explanation="scaled_dot_product_attention takes True for allowed; each token attends to the future only.",
        cause="the mask shows the future",
        make=make_inverted_mask,
        steps=200,
        margin=0.5,
    ),
    Program(
        name="a collator that leaves out the images",
        source="https://github.com/Blaizzy/mlx-vlm/pull/979",
        symptom="The loss falls to a plateau, captions are fluent and wrong.",
        explanation="A flag of the collator drops the pixel values; the model takes the placeholder embeddings without "
        "complaint, and the projector never runs. In the thread the framework is MLX.",
        cause="an input does not arrive",
        make=make_images_left_out,
        steps=150,
        margin=0.4,
    ),
    Program(
        name="the reward of left-padded texts",
        source="https://github.com/huggingface/transformers/pull/46782",
        symptom="The loss stays near 0.69.",
        explanation="The position of the last token is the number of tokens minus one, which is right only if padding "
        "is on the right; padding is on the left, and most rewards are those of padding.",
        cause="the output is read from padding",
        make=make_reward_of_padding,
        steps=150,
        margin=0.2,
    ),
]


# --------------------------------------------------------------------------------------------------------------------
# Healthy trainings.


class MultiTokenModel(nn.Module):
    """A trunk and a head for each distance."""

    def __init__(self, vocab: int, width: int, ahead: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.trunk = nn.GRU(width, width, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, vocab) for _ in range(ahead))

    def forward(self, input_ids: Tensor) -> list[Tensor]:
        hidden = self.trunk(self.embed(input_ids))[0]
        return [head(hidden) for head in self.heads]


def make_multi_token() -> Training:
    """Heads for the next three tokens."""
    vocab, length, ahead = 16, 12, 3
    successor = torch.randperm(vocab)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(0, vocab, (32, 2))
        for _ in range(length - 2):
            ids = torch.cat([ids, successor[(ids[:, -1:] + ids[:, -2:-1]) % vocab]], 1)
        return {"input_ids": ids}, ids

    def loss(outputs: list[Tensor], labels: Tensor) -> Tensor:
        total = torch.zeros(())
        for distance, logits in enumerate(outputs, start=1):
            total = total + F.cross_entropy(logits[:, :-distance].flatten(0, 1), labels[:, distance:].flatten())
        return total

    model = MultiTokenModel(vocab, 48, ahead)

    @torch.no_grad()
    def next_token(network: nn.Module) -> float:
        network.eval()
        inputs, ids = batch(0)
        return (network(**inputs)[0][:, 1:-1].argmax(-1) == ids[:, 2:]).float().mean().item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=1e-2), next_token, step=keyword_step)


class PrefixLM(nn.Module):
    """Full attention inside the prompt, causal attention after it."""

    def __init__(self, vocab: int, width: int, length: int, prefix: int) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.lm_head = nn.Linear(width, vocab)
        blocked = torch.ones(length, length, dtype=torch.bool).triu(1)
        blocked[:, :prefix] = False
        self.register_buffer("blocked", blocked)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.size(1)
        hidden = self.embed(input_ids) + self.positions(torch.arange(length))
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.blocked[:length, :length])
        return self.lm_head(hidden)


def make_prefix_lm() -> Training:
    """Sort the words of the prompt."""
    vocab, prefix = 12, 5
    length = 2 * prefix + 1

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        prompt = torch.randint(1, vocab, (64, prefix))
        ids = torch.cat([prompt, torch.zeros(64, 1, dtype=torch.long), prompt.sort(1).values], 1)
        labels = ids.clone()
        labels[:, : prefix + 1] = IGNORE
        return {"input_ids": ids}, labels

    model = PrefixLM(vocab, 32, length, prefix + 1)

    @torch.no_grad()
    def sorted_words(network: nn.Module) -> float:
        network.eval()
        inputs, labels = batch(0)
        ids = inputs["input_ids"][:, : prefix + 1]
        for _ in range(prefix):
            ids = torch.cat([ids, network(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        return (ids[:, prefix + 1 :] == labels[:, prefix + 1 :]).float().mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, shifted_cross_entropy, optimizer, sorted_words, step=keyword_step)


def make_zero_loss() -> Training:
    """On-policy GRPO: the value of the loss is zero in every step, its gradient is not."""
    vocab, new, group, prompts = 8, 3, 8, 8
    policy = TokenPolicy(vocab, 32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ids = generate(policy, torch.randint(0, vocab, (prompts, 1)).repeat_interleave(group, 0), new)
        rewards = answers_right(ids, vocab).view(-1, group)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        return {"input_ids": ids}, {"completions": ids[:, -new:], "advantages": advantages.view(-1)}

    def loss(logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        logps = logits[:, -new - 1 : -1].log_softmax(-1).gather(-1, targets["completions"][..., None]).squeeze(-1)
        ratio = (logps - logps.detach()).exp()
        return -(ratio * targets["advantages"][:, None]).mean()

    def right(network: nn.Module) -> float:
        network.eval()
        return answers_right(generate(network, torch.arange(vocab)[:, None], new, sample=False), vocab).mean().item()

    return Training(policy, batch, loss, optimizer, right, step=clipped_step)


class HashMoE(nn.Module):
    """Each token has its expert by a fixed table; nothing about the routing is learned."""

    def __init__(self, vocab: int, width: int, experts: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.gate = nn.Embedding(vocab, experts).requires_grad_(False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(experts)
        )
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.mix(self.embed(input_ids))[0]
        index = self.gate(input_ids).argmax(-1)
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            chosen = index == number
            out[chosen] = expert(hidden[chosen])
        return self.lm_head(hidden + out)


def make_hash_routing() -> Training:
    """Language modelling with hash layers."""
    vocab, length = 24, 10
    table = torch.randint(0, vocab, (vocab, 2))

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(0, vocab, (32, 2))
        for _ in range(length - 2):
            ids = torch.cat([ids, table[ids[:, -1], ids[:, -2] % 2][:, None]], 1)
        return {"input_ids": ids}, ids

    model = HashMoE(vocab, 32, 4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    @torch.no_grad()
    def next_token(network: nn.Module) -> float:
        network.eval()
        inputs, ids = batch(0)
        return (network(**inputs)[:, 1:-1].argmax(-1) == ids[:, 2:]).float().mean().item()

    return Training(model, batch, shifted_cross_entropy, optimizer, next_token, step=keyword_step)


HEALTHY = [
    Healthy(
        name="heads for the next three tokens",
        unusual="Labels of two heads are moved by two and three positions, and the losses are added up.",
        make=make_multi_token,
        steps=150,
        gain=0.3,
    ),
    Healthy(
        name="full attention inside the prompt",
        unusual="Tokens of the prompt see later ones, and more than half of the labels are ignored.",
        make=make_prefix_lm,
        steps=200,
        gain=0.3,
    ),
    Healthy(
        name="a policy gradient whose loss is always zero",
        unusual="The ratio is one and the advantages of a group add up to zero: the loss is zero, the gradient is not.",
        make=make_zero_loss,
        steps=150,
        gain=0.3,
    ),
    Healthy(
        name="experts chosen by a fixed table",
        unusual="The router is random, frozen and gets no gradient.",
        make=make_hash_routing,
        steps=150,
        gain=0.3,
    ),
]
