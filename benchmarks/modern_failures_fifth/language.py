"""Mistakes in trainings of language models and other models of tokens, rebuilt small, and their repairs."""

import copy
import math

import torch
import torch.nn.functional as F
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    get_linear_schedule_with_warmup,
)

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def small_gpt2(vocab: int, length: int = 64, width: int = 48, layers: int = 2) -> GPT2LMHeadModel:
    """A GPT-2 without dropout."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab,
            n_positions=length,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def small_llama(vocab: int, width: int = 48, layers: int = 2) -> LlamaForCausalLM:
    """A Llama with four heads."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=None,
        )
    )


def model_loss(outputs, labels: Tensor) -> Tensor:
    """The loss that the model has computed from the labels in its inputs."""
    return outputs.loss


def dict_step(training: Training, inputs: dict[str, Tensor], targets) -> None:
    """One step where the inputs are a dictionary."""
    training.optimizer.zero_grad()
    loss = training.loss(training.model(**inputs), targets)
    loss.backward()
    training.optimizer.step()


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token with the logits before it."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


# --- instruction tuning


def answers(pad_token_id: int, size: int = 32) -> dict[str, Tensor]:
    """Prompts and answers of two to nine words, padded."""
    bos, eos = 0, 1
    count = torch.randint(2, 10, (size,))
    letter = torch.randint(12, 18, (size,))
    input_ids = torch.full((size, 13), pad_token_id)
    for row, (n, word) in enumerate(zip(count.tolist(), letter.tolist(), strict=False)):
        tokens = [bos, n + 1, word] + [word] * n + [eos]
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
    lengths = count + 4
    attention_mask = (torch.arange(13) < lengths[:, None]).long()
    labels = input_ids.clone()
    labels[labels == pad_token_id] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "lengths": lengths}


def make_answers(repaired: bool) -> Training:
    """Instruction tuning of a GPT-2 with a padded batch."""
    eos_token_id, extra_token_id = 1, 19
    pad_token_id = extra_token_id if repaired else eos_token_id
    model = small_gpt2(20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        data = answers(pad_token_id)
        data.pop("lengths")
        return data, data["labels"]

    @torch.no_grad()
    def stops(model: nn.Module) -> float:
        model.eval()
        data = answers(pad_token_id, 256)
        logits = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
        last = data["lengths"] - 2
        return (logits[torch.arange(256), last].argmax(-1) == eos_token_id).float().mean().item()

    return Training(model, batch, model_loss, optimizer, stops, dict_step)


# --- LoRA

WORDS = 11


def counting(first_rule: int, size: int = 32) -> Tensor:
    """A rule token, then words that count on by one, two or three, as the rule says."""
    rule = torch.randint(0, 3, (size, 1))
    start = torch.randint(0, WORDS, (size, 1))
    words = (start + (rule + 1) * torch.arange(8)) % WORDS
    return torch.cat([rule + first_rule, words], dim=1)


def second_word(model: nn.Module, first_rule: int) -> float:
    """Accuracy of the second word, which only the rule tells."""
    model.eval()
    with torch.no_grad():
        input_ids = counting(first_rule, 300)
        logits = model(input_ids=input_ids[:, :2]).logits
    return (logits[:, -1].argmax(-1) == input_ids[:, 2]).float().mean().item()


def counting_model() -> LlamaForCausalLM:
    """A Llama that has learned the rules of the tokens 11, 12 and 13."""
    model = small_llama(WORDS + 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        input_ids = counting(WORDS)
        optimizer.zero_grad()
        model(input_ids=input_ids, labels=input_ids).loss.backward()
        optimizer.step()
    return model


def make_new_tokens(repaired: bool) -> Training:
    """LoRA on a Llama with three tokens more."""
    model = counting_model()
    model.resize_token_embeddings(WORDS + 6)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["embed_tokens", "lm_head"] if repaired else None,
    )
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        input_ids = counting(WORDS + 3)
        return {"input_ids": input_ids, "labels": input_ids}, input_ids

    return Training(model, batch, model_loss, optimizer, lambda model: second_word(model, WORDS + 3), dict_step)


# --- DPO


def response_logps(model: nn.Module, input_ids: Tensor, prompt_length: int = 1) -> Tensor:
    """Sum of the log-probabilities of the tokens after each prompt."""
    logps = model(input_ids=input_ids).logits[:, prompt_length - 1 : -1].log_softmax(-1)
    return logps.gather(-1, input_ids[:, prompt_length:].unsqueeze(-1)).squeeze(-1).sum(-1)


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, tokens: int) -> Tensor:
    """Prompts with responses drawn from the model."""
    input_ids = prompts
    for _ in range(tokens):
        probabilities = model(input_ids=input_ids).logits[:, -1].softmax(-1)
        input_ids = torch.cat([input_ids, torch.multinomial(probabilities, 1)], dim=1)
    return input_ids


def make_dpo(repaired: bool) -> Training:
    """DPO on pairs ranked by people whose choices are noisy."""
    beta, vocab, pairs = 0.5, 10, 2000
    taste = torch.randn(vocab, vocab)
    model = small_gpt2(vocab, width=32)
    sft_model = copy.deepcopy(model).eval().requires_grad_(False)
    ref_model = sft_model if repaired else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def reward(input_ids: Tensor) -> Tensor:
        return taste[input_ids[:, :1], input_ids[:, 1:]].sum(-1)

    prompts = torch.randint(0, vocab, (pairs, 1))
    first, second = sample(sft_model, prompts, 3), sample(sft_model, prompts, 3)
    better = (torch.rand(pairs) < torch.sigmoid(reward(first) - reward(second)))[:, None]
    chosen, rejected = torch.where(better, first, second), torch.where(better, second, first)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        rows = torch.randint(0, pairs, (32,))
        return {"input_ids": torch.cat([chosen[rows], rejected[rows]])}, torch.ones(32)

    def preference_loss(margins: Tensor, targets: Tensor) -> Tensor:
        return -(F.logsigmoid(beta * margins) * targets).mean()

    def step(training: Training, inputs: dict[str, Tensor], targets: Tensor) -> None:
        policy_chosen, policy_rejected = response_logps(training.model, inputs["input_ids"]).chunk(2)
        with torch.no_grad():
            reference = training.model if ref_model is None else ref_model
            ref_chosen, ref_rejected = response_logps(reference, inputs["input_ids"]).chunk(2)
        loss = training.loss((policy_chosen - policy_rejected) - (ref_chosen - ref_rejected), targets)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()

    @torch.no_grad()
    def value(model: nn.Module) -> float:
        input_ids = sample(model, torch.randint(0, vocab, (1000, 1)), 3)
        kl = response_logps(model, input_ids) - response_logps(sft_model, input_ids)
        return (reward(input_ids) - beta * kl).mean().item()

    return Training(model, batch, preference_loss, optimizer, value, step)


# --- sequence to sequence


def make_translation(repaired: bool) -> Training:
    """A BART that translates four words, each by a dictionary."""
    pad, eos, words = 1, 2, 12
    dictionary = torch.randperm(words) + 3
    config = BartConfig(
        vocab_size=words + 3,
        d_model=48,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=16,
        dropout=0.0,
        pad_token_id=pad,
        bos_token_id=0,
        eos_token_id=eos,
        decoder_start_token_id=eos,
        init_std=0.1,
    )
    model = BartForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def pairs(size: int) -> tuple[Tensor, Tensor]:
        source = torch.randint(0, words, (size, 4))
        end = torch.full((size, 1), eos)
        return torch.cat([source + 3, end], dim=1), torch.cat([dictionary[source], end], dim=1)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        input_ids, labels = pairs(32)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
        if not repaired:
            inputs["decoder_input_ids"] = labels
        return inputs, labels

    @torch.no_grad()
    def generated(model: nn.Module) -> float:
        model.eval()
        input_ids, labels = pairs(200)
        decoder_input_ids = torch.full((200, 1), eos)
        for _ in range(4):
            logits = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits
            decoder_input_ids = torch.cat([decoder_input_ids, logits[:, -1:].argmax(-1)], dim=1)
        return (decoder_input_ids[:, 1:] == labels[:, :4]).float().mean().item()

    return Training(model, batch, model_loss, optimizer, generated, dict_step)


# --- speech recognition


class Recogniser(nn.Module):
    """Convolutions over frames, a letter or the blank for every other frame."""

    def __init__(self, features: int, symbols: int, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(features, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.head = nn.Linear(width, symbols)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.encoder(frames.transpose(1, 2)).transpose(1, 2))


def make_speech(repaired: bool) -> Training:
    """CTC on made-up speech."""
    vocabulary = {letter: index for index, letter in enumerate("abcdefgh")}
    vocabulary["<pad>"] = blank_id = len(vocabulary)
    voices = torch.randn(blank_id, 10)
    model = Recogniser(10, len(vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ctc = nn.CTCLoss(blank=blank_id, zero_infinity=True) if repaired else nn.CTCLoss(zero_infinity=True)

    def speech(size: int) -> tuple[Tensor, Tensor]:
        letters = torch.randint(0, blank_id, (size, 5))
        frames = 0.3 * torch.randn(size, 40, 10)
        for position in range(5):
            start = 8 * position + torch.randint(0, 3, (size,))
            for offset in range(5):
                frames[torch.arange(size), start + offset] += voices[letters[:, position]]
        return frames, letters

    def loss(logits: Tensor, letters: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1).transpose(0, 1)
        frames, size = log_probs.shape[:2]
        return ctc(log_probs, letters, torch.full((size,), frames), torch.full((size,), letters.shape[1]))

    @torch.no_grad()
    def recognised(model: nn.Module) -> float:
        frames, letters = speech(200)
        right = 0
        for best, truth in zip(model(frames).argmax(-1), letters, strict=False):
            text = [symbol for symbol in best.unique_consecutive().tolist() if symbol != blank_id]
            right += text == truth.tolist()
        return right / 200

    return Training(model, lambda number: speech(24), loss, optimizer, recognised)


# --- GRPO


def grpo_step(training: Training, inputs: dict[str, Tensor], goals: Tensor, num_generations: int, reward) -> None:
    """Sample answers, compare the rewards within groups, one step on the policy."""
    input_ids = sample(training.model, inputs["input_ids"], goals.shape[1])
    rewards = reward(input_ids, goals).view(-1, num_generations)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    logps = response_logps(training.model, input_ids)
    ratio = torch.exp(logps - logps.detach())
    loss = training.loss(ratio, advantages.flatten())
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()


def policy_loss(ratio: Tensor, advantages: Tensor) -> Tensor:
    """The clipped objective."""
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def make_grpo(repaired: bool) -> Training:
    """GRPO with a reward that is more generous for some prompts."""
    vocab, num_generations = 8, 8
    goal = torch.randint(0, vocab, (vocab, 2))
    generosity = 6 * torch.rand(vocab)
    model = small_gpt2(vocab, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def reward(input_ids: Tensor, goals: Tensor) -> Tensor:
        return (input_ids[:, 1:] == goals).float().mean(1) + generosity[input_ids[:, 0]]

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        prompts = torch.randint(0, vocab, (8, 1))
        prompts = prompts.repeat_interleave(num_generations, dim=0) if repaired else prompts.repeat(num_generations, 1)
        return {"input_ids": prompts}, goal[prompts[:, 0]]

    def step(training: Training, inputs: dict[str, Tensor], goals: Tensor) -> None:
        grpo_step(training, inputs, goals, num_generations, reward)

    def right(model: nn.Module) -> float:
        prompts = torch.arange(vocab).repeat(50)[:, None]
        return (sample(model, prompts, 2)[:, 1:] == goal[prompts[:, 0]]).float().mean().item()

    return Training(model, batch, policy_loss, optimizer, right, step)


# --- half precision


def make_half(repaired: bool) -> Training:
    """Fine-tuning of a language model with the small rate of the recipe."""
    words = 24
    model = small_llama(words, width=64)
    pretraining, target = torch.randperm(words), torch.randperm(words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def walks(follow: Tensor, size: int = 16) -> Tensor:
        tokens = [torch.randint(0, words, (size,))]
        for _ in range(11):
            random = torch.randint(0, words, (size,))
            tokens.append(torch.where(torch.rand(size) < 0.9, follow[tokens[-1]], random))
        return torch.stack(tokens, 1)

    for _ in range(60):
        input_ids = walks(pretraining)
        optimizer.zero_grad()
        model(input_ids=input_ids, labels=input_ids).loss.backward()
        optimizer.step()
    if not repaired:
        model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        input_ids = walks(target)
        return {"input_ids": input_ids, "labels": input_ids}, input_ids

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training.loss(training.model(**inputs), labels)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()

    @torch.no_grad()
    def fit(model: nn.Module) -> float:
        input_ids = walks(target, 200)
        return -token_loss(model(input_ids=input_ids).logits.float(), input_ids).item()

    return Training(model, batch, model_loss, optimizer, fit, step)


# --- mixture of experts


class SparseBlock(nn.Module):
    """Experts of which each token takes the best by a gate."""

    def __init__(self, width: int, experts: int, top_k: int, norm_topk_prob: bool) -> None:
        super().__init__()
        self.top_k, self.norm_topk_prob = top_k, norm_topk_prob
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)) for _ in range(experts)
        )

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.gate(hidden).softmax(-1)
        weight, chosen = scores.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        result = torch.zeros_like(hidden)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == index)
            result = result.index_add(0, token, expert(hidden[token]) * weight[token, slot].unsqueeze(-1))
        share = F.one_hot(chosen, len(self.experts)).float().sum(1).mean(0)
        return result, len(self.experts) * (share * scores.mean(0)).sum()


class Translator(nn.Module):
    """Words of several languages through a block of experts."""

    def __init__(self, words: int, languages: int, width: int, norm_topk_prob: bool) -> None:
        super().__init__()
        self.word, self.language = nn.Embedding(words, width), nn.Embedding(languages, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = SparseBlock(width, languages, 1, norm_topk_prob)
        self.head = nn.Linear(width, words)

    def forward(self, word: Tensor, language: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.word(word) + self.language(language)
        result, balance = self.mlp(self.norm(hidden))
        return self.head(hidden + result), balance


def make_experts(repaired: bool) -> Training:
    """A translator with one expert for each token."""
    words, languages = 40, 6
    table = torch.stack([torch.randperm(words) for _ in range(languages)])
    model = Translator(words, languages, 32, norm_topk_prob=not repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        word, language = torch.randint(0, words, (256,)), torch.randint(0, languages, (256,))
        return {"word": word, "language": language}, table[language, word]

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        logits, balance = outputs
        return F.cross_entropy(logits, targets) + 0.01 * balance

    @torch.no_grad()
    def fit(model: nn.Module) -> float:
        language, word = torch.arange(languages).repeat_interleave(words), torch.arange(words).repeat(languages)
        return -F.cross_entropy(model(word, language)[0], table.flatten()).item()

    return Training(model, batch, loss, optimizer, fit, dict_step)


# --- state-space models


class SelectiveScan(nn.Module):
    """The mixer of Mamba, as a loop over time."""

    def __init__(self, width: int, state: int = 4, rank: int = 4, dt_min: float = 0.001, dt_max: float = 0.1) -> None:
        super().__init__()
        self.sizes = [rank, state, state]
        self.in_proj = nn.Linear(width, 2 * width, bias=False)
        self.x_proj = nn.Linear(width, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        dt = torch.exp(torch.rand(width) * math.log(dt_max / dt_min) + math.log(dt_min))
        self.dt_proj.bias.data.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.dt_proj.bias._no_reinit = True
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        self.norm = nn.RMSNorm(width)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        x = F.silu(x)
        dt, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        dt = F.softplus(self.dt_proj(dt)).unsqueeze(-1)
        decay, drive = torch.exp(-dt * self.A_log.exp()), dt * B.unsqueeze(2) * x.unsqueeze(-1)
        state, states = torch.zeros_like(drive[:, 0]), []
        for a, b in zip(decay.unbind(1), drive.unbind(1), strict=False):
            state = a * state + b
            states.append(state)
        y = (torch.stack(states, 1) * C.unsqueeze(2)).sum(-1) + self.D * x
        return self.out_proj(self.norm(y * F.silu(z)))


class MambaReader(nn.Module):
    """A block of Mamba that reads a text, and a head on its last state."""

    def __init__(self, vocab: int, width: int, keep_marked: bool) -> None:
        super().__init__()
        self.keep_marked = keep_marked
        self.embed = nn.Embedding(vocab, width)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.mixer = SelectiveScan(width)
        self.head = nn.Linear(width, vocab)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.2)
        kept = self.keep_marked and getattr(getattr(module, "bias", None), "_no_reinit", False)
        if isinstance(module, nn.Linear) and module.bias is not None and not kept:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        hidden = hidden + self.mixer(self.norm1(hidden))
        return self.head(self.norm2(hidden)[:, -1])


def make_mamba(repaired: bool) -> Training:
    """A Mamba that has to remember the first word."""
    model = MambaReader(10, 32, keep_marked=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def batch(number: int, size: int = 32) -> tuple[Tensor, Tensor]:
        input_ids = torch.randint(5, 10, (size, 40))
        input_ids[:, 0] = torch.randint(0, 5, (size,))
        return input_ids, input_ids[:, 0]

    @torch.no_grad()
    def remembered(model: nn.Module) -> float:
        input_ids, first = batch(0, 300)
        return (model(input_ids).argmax(-1) == first).float().mean().item()

    return Training(model, batch, F.cross_entropy, optimizer, remembered)


# --- schedules


def make_schedule(repaired: bool) -> Training:
    """Pre-training with accumulated gradients and a linear schedule."""
    accumulate, micro_batches, words = 4, 240, 16
    follow = torch.randint(0, words, (words, words))
    model = small_gpt2(words, width=48, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    total = micro_batches // accumulate
    scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=total)
    seen = 0

    def walks(size: int) -> Tensor:
        tokens = list(torch.randint(0, words, (2, size)))
        for _ in range(10):
            tokens.append(follow[tokens[-2], tokens[-1]])
        return torch.stack(tokens, 1)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        input_ids = walks(16)
        return {"input_ids": input_ids, "labels": input_ids}, input_ids

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        nonlocal seen
        loss = training.loss(training.model(**inputs), labels) / accumulate
        loss.backward()
        seen += 1
        if seen % accumulate == 0:
            nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
            training.optimizer.step()
            training.optimizer.zero_grad()
            if repaired:
                scheduler.step()
        if not repaired:
            scheduler.step()

    @torch.no_grad()
    def fit(model: nn.Module) -> float:
        input_ids = walks(300)
        return -token_loss(model(input_ids=input_ids).logits[:, 1:], input_ids[:, 1:]).item()

    return Training(model, batch, model_loss, optimizer, fit, step)


# --- positions


class Rotary(nn.Module):
    """Rotary positions for queries or keys."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        frequencies = 100.0 ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.arange(length)[:, None] * frequencies
        self.register_buffer("cos", angles.cos()[None, :, None])
        self.register_buffer("sin", angles.sin()[None, :, None])

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        cos, sin = self.cos[:, :length], self.sin[:, :length]
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class RotaryBlock(nn.Module):
    """Attention with rotary positions and an MLP."""

    def __init__(self, width: int, heads: int, length: int, rotate_first: bool) -> None:
        super().__init__()
        self.heads, self.rotate_first = heads, rotate_first
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.rotary = Rotary(width // heads, length)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).unbind(2)
        if self.rotate_first:
            q, k = self.rotary(q), self.rotary(k)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            q, k = self.rotary(q), self.rotary(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class RotaryLM(nn.Module):
    """A small language model with rotary positions."""

    def __init__(self, vocab: int, rotate_first: bool, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.Sequential(*(RotaryBlock(width, heads, 64, rotate_first) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(input_ids))))


def make_rotary(repaired: bool) -> Training:
    """Pre-training on texts whose next word hangs on the word three before."""
    words = 12
    follow = torch.randperm(words)
    model = RotaryLM(words, rotate_first=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def texts(size: int) -> Tensor:
        tokens = list(torch.randint(0, words, (3, size)))
        for _ in range(21):
            noise = torch.randint(0, words, (size,))
            tokens.append(torch.where(torch.rand(size) < 0.8, follow[tokens[-3]], noise))
        return torch.stack(tokens, 1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        input_ids = texts(16)
        return input_ids, input_ids

    @torch.no_grad()
    def fit(model: nn.Module) -> float:
        input_ids = texts(200)
        return -token_loss(model(input_ids), input_ids).item()

    return Training(model, batch, token_loss, optimizer, fit)


# --- sentence embeddings


class SentenceEncoder(nn.Module):
    """A GPT-2 whose states are pooled to an embedding."""

    def __init__(self, vocab: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.backbone = GPT2Model(small_gpt2(vocab).config)
        self.projection = nn.Linear(48, 32)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = hidden[:, 0] if self.pooling == "cls" else hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]
        return F.normalize(self.projection(pooled), dim=-1)


def make_sentences(repaired: bool) -> Training:
    """Contrastive training of sentence embeddings on pairs of one topic."""
    topics, words = 60, 30
    speech = torch.multinomial(torch.ones(topics, words), 4)
    model = SentenceEncoder(words + 3, "lasttoken" if repaired else "cls")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def sentences(topic: Tensor) -> dict[str, Tensor]:
        picks = torch.randint(0, 4, (len(topic), 8))
        input_ids = speech[topic[:, None], picks] + 3
        lengths = torch.randint(5, 9, (len(topic),))
        input_ids = torch.cat([torch.zeros(len(topic), 1, dtype=torch.long), input_ids], dim=1)
        mask = (torch.arange(9) <= lengths[:, None]).long()
        return {"input_ids": input_ids.masked_fill(mask == 0, 1), "attention_mask": mask}

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        topic = torch.randperm(topics)[:32]
        pair = [sentences(topic), sentences(topic)]
        return {key: torch.cat([half[key] for half in pair]) for key in pair[0]}, torch.arange(32)

    def contrastive(embeddings: Tensor, targets: Tensor) -> Tensor:
        anchors, positives = embeddings.chunk(2)
        return F.cross_entropy(20 * anchors @ positives.T, targets)

    @torch.no_grad()
    def retrieved(model: nn.Module) -> float:
        topic = torch.arange(topics)
        similarity = model(**sentences(topic)) @ model(**sentences(topic)).T
        return (similarity.argmax(1) == topic).float().mean().item()

    return Training(model, batch, contrastive, optimizer, retrieved, dict_step)


# --- healthy trainings


def make_zero_loss() -> Training:
    """GRPO with one update for each sample, so that every ratio is one and the advantages of a group sum to zero."""
    vocab, num_generations = 8, 16
    goal = torch.randint(0, vocab, (vocab, 2))
    model = small_llama(vocab, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def reward(input_ids: Tensor, goals: Tensor) -> Tensor:
        return (input_ids[:, 1:] == goals).float().sum(1)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        prompts = torch.randint(0, vocab, (4, 1)).repeat_interleave(num_generations, dim=0)
        return {"input_ids": prompts}, goal[prompts[:, 0]]

    def step(training: Training, inputs: dict[str, Tensor], goals: Tensor) -> None:
        grpo_step(training, inputs, goals, num_generations, reward)

    def right(model: nn.Module) -> float:
        prompts = torch.arange(vocab).repeat(50)[:, None]
        return (sample(model, prompts, 2)[:, 1:] == goal[prompts[:, 0]]).float().mean().item()

    return Training(model, batch, policy_loss, optimizer, right, step)


def make_prompt_tuning() -> Training:
    """Four virtual tokens in front of a Llama of which no weight is trained."""
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    model = get_peft_model(counting_model(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2, weight_decay=0.0)

    def texts(size: int) -> Tensor:
        return (torch.randint(0, WORDS, (size, 1)) + 2 * torch.arange(6)) % WORDS

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        input_ids = texts(32)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": input_ids}
        return inputs, input_ids

    @torch.no_grad()
    def right(model: nn.Module) -> float:
        input_ids = texts(300)
        logits = model(input_ids=input_ids[:, :1], attention_mask=torch.ones(300, 1, dtype=torch.long)).logits
        return (logits[:, -1].argmax(-1) == input_ids[:, 1]).float().mean().item()

    return Training(model, batch, model_loss, optimizer, right, dict_step)


def make_unlearning() -> Training:
    """Gradient ascent on facts to forget, descent on the facts to keep."""
    facts, forgotten = 24, 6
    answer = torch.randint(0, facts, (facts,))
    model = small_gpt2(facts, width=32)
    everything = torch.stack([torch.arange(facts), answer], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=everything, labels=everything).loss.backward()
        optimizer.step()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)

    def batch(number: int) -> tuple[dict[str, Tensor], Tensor]:
        forget = torch.randint(0, forgotten, (8,))
        keep = torch.randint(forgotten, facts, (24,))
        input_ids = everything[torch.cat([forget, keep])]
        return {"input_ids": input_ids}, input_ids

    def forget_loss(outputs, input_ids: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs.logits[:, 0], input_ids[:, 1], reduction="none")
        return losses[8:].mean() - 0.3 * losses[:8].mean()

    @torch.no_grad()
    def kept(model: nn.Module) -> float:
        right = (model(input_ids=everything[:, :1]).logits[:, 0].argmax(-1) == answer).float()
        return (right[forgotten:].mean() - right[:forgotten].mean()).item()

    return Training(model, batch, forget_loss, optimizer, kept, dict_step)


GITHUB = "https://github.com/"

PROGRAMS = [
    Program(
        "answers_without_end",
        GITHUB + "huggingface/transformers/issues/23530",
        "After instruction tuning the model writes good answers but never stops.",
        "The pad token is the end token, and the collator takes every pad token out of the labels: the end as well.",
        "end token taken out of the labels",
        make_answers,
        200,
        0.5,
    ),
    Program(
        "lora_with_new_tokens",
        GITHUB + "feizc/Visual-LLaMA/issues/2",
        "The adapter learns nothing about the tokens that were added to the vocabulary.",
        "The new rows of the embedding and of the head are frozen with the rest of the base model.",
        "embeddings of added tokens frozen",
        make_new_tokens,
        80,
        0.4,
    ),
    Program(
        "dpo_without_reference",
        GITHUB + "YiyangZhou/POVID/issues/11",
        "The loss stays at 0.693 while the model drifts away.",
        "Without a reference model the policy of the moment is taken as its own reference, and nothing holds it back.",
        "reference network is the trained network",
        make_dpo,
        150,
        0.5,
    ),
    Program(
        "seq2seq_decoder_reads_labels",
        GITHUB + "huggingface/transformers/issues/11977",
        "The loss falls to zero and the generated text is gibberish.",
        "The labels are the inputs of the decoder, not shifted by one: it copies the token that it has to predict.",
        "decoder sees its own targets",
        make_translation,
        150,
        0.5,
    ),
    Program(
        "ctc_blank_is_a_letter",
        "",
        "The recogniser's transcripts are full of one letter.",
        "The blank is the last symbol of the vocabulary, but CTCLoss takes index 0, a letter, unless it is told; known"
        " from the documentation of CTCLoss and from recognisers whose vocabulary was built before the loss.",
        "wrong index given to the loss",
        make_speech,
        120,
        0.5,
    ),
    Program(
        "grpo_groups_of_mixed_prompts",
        GITHUB + "dllm-reasoning/d1/issues/19",
        "The reward hardly rises.",
        "The prompts are tiled, but the rewards are grouped as if the answers to a prompt were neighbours: advantages"
        " compare answers to different prompts.",
        "axes mixed: order of repeated rows",
        make_grpo,
        150,
        0.2,
    ),
    Program(
        "fine_tuning_in_bfloat16",
        GITHUB + "NVIDIA-NeMo/Automodel/pull/3444",
        "The loss falls much more slowly than in the recipe.",
        "The weights are stored in bfloat16, and most updates are smaller than half the distance to the next number.",
        "updates lost in half precision",
        make_half,
        150,
        0.2,
    ),
    Program(
        "router_of_one_expert",
        GITHUB + "jingyaogong/minimind/issues/858",
        "The mixture of experts is no better than a dense model; the load of the experts is even.",
        "The weight of the single chosen expert is divided by itself: it is always one, and no gradient of the loss"
        " gets to the router.",
        "router gets no gradient",
        make_experts,
        150,
        0.2,
    ),
    Program(
        "mamba_initialised_again",
        GITHUB + "athms/mad-lab/issues/3",
        "The state-space model remembers nothing over more than a few words.",
        "The model's general initialisation sets the bias of the step sizes to zero, which the mixer had chosen for"
        " long memory.",
        "special initialisation overwritten",
        make_mamba,
        150,
        0.4,
    ),
    Program(
        "schedule_of_micro_batches",
        GITHUB + "huggingface/accelerate/issues/963",
        "The loss stands still after a quarter of the run.",
        "The schedule is made for optimizer steps but stepped at each micro-batch: the rate is zero early.",
        "schedule runs too fast",
        make_schedule,
        240,
        0.4,
    ),
    Program(
        "rotary_over_heads",
        GITHUB + "mlfoundations/open_lm/issues/4",
        "The language model trains, but its loss stays above that of other implementations.",
        "The rotation is made along the axis of the heads, not of the sequence: attention knows no positions.",
        "positions along the wrong axis",
        make_rotary,
        150,
        0.4,
    ),
    Program(
        "first_token_of_a_decoder",
        GITHUB + "rasbt/MachineLearning-QandAI-book/issues/18",
        "The contrastive loss stays at the logarithm of the batch size.",
        "The embedding is the state of the first token, as for BERT; in a causal model it has seen no other token.",
        "pooled where nothing is known",
        make_sentences,
        150,
        0.5,
    ),
]

HEALTHY = [
    Healthy(
        "grpo_with_zero_loss",
        "The loss is zero at every step: its gradient is not.",
        make_zero_loss,
        150,
        0.3,
    ),
    Healthy(
        "prompt_tuning",
        "All layers are frozen; only the embeddings of four virtual tokens learn, at a high rate.",
        make_prompt_tuning,
        100,
        0.5,
    ),
    Healthy(
        "unlearning",
        "The loss has a negative term without bound: gradient ascent on facts that the model is to forget.",
        make_unlearning,
        60,
        0.5,
    ),
]
