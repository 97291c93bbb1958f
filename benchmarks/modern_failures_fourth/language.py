"""Training of language models as people do it today: fourteen mistakes with their repairs, and four oddities.

The languages are made: a chain of tokens in which every token has a few likely successors, questions with an answer
that can be looked up in the prompt, and "speech" in which every letter is a pattern of some frames.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore", message=".*None of the inputs have requires_grad.*|.*checkpointing. is deprecated.*")

TABLE = torch.Generator().manual_seed(7)
SUCCESSORS = torch.stack([torch.randperm(30, generator=TABLE)[:3] + 2 for _ in range(32)])  # three for each token
ANSWERS = torch.randperm(8, generator=TABLE) + 10
PATTERNS = torch.randn(8, 6, generator=TABLE)  # what a letter sounds like


def chain(rows: int, length: int) -> Tensor:
    """Text in which each token is one of three successors of the token before."""
    tokens = [torch.randint(2, 32, (rows,))]
    for _ in range(length - 1):
        tokens.append(SUCCESSORS[tokens[-1], torch.multinomial(torch.tensor([0.8, 0.1, 0.1]), rows, True)])
    return torch.stack(tokens, 1)


def lookup(rows: int, length: int = 12) -> tuple[Tensor, Tensor]:
    """Text with the marker 1 somewhere; what counts is the token behind it, one of eight."""
    ids = torch.randint(2, 10, (rows, length))
    place = torch.randint(0, length - 1, (rows,))
    every = torch.arange(rows)
    ids[every, place] = 1
    return ids, ids[every, place + 1] - 2


Step = Callable[[Training, Any, Any], None]


class Block(nn.Module):
    """A block of a transformer; the caller gives the mask."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A small GPT, written by hand. `mask` makes the mask of attention for a length."""

    def __init__(self, mask: Callable[[int], Tensor], vocabulary: int = 32, width: int = 32) -> None:
        super().__init__()
        self.mask = mask
        self.reentrant: bool | None = None  # how the blocks are checkpointed; None: not at all
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        mask = self.mask(ids.shape[1])
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x, mask) if self.reentrant is None else checkpoint(block, x, mask, use_reentrant=self.reentrant)
        return self.head(self.norm(x))


def causal(length: int) -> Tensor:
    """True where a token may look."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def llama_config(**more: Any) -> transformers.LlamaConfig:
    """A very small Llama."""
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    rest = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "use_cache": False}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 0, "initializer_range": 0.15}
    return transformers.LlamaConfig(**{**sizes, **rest, **special, **more})


def bert_config(**more: Any) -> transformers.BertConfig:
    """A very small BERT."""
    sizes = {"vocab_size": 33, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    rest = {"num_attention_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.15}
    return transformers.BertConfig(**{**sizes, **rest, **more})


def labels_step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
    """The step for networks that compute their loss themselves."""
    assert training.optimizer is not None
    outputs = training.model(**inputs, labels=labels)
    loss = training.loss(outputs, labels)
    loss.backward()
    training.optimizer.step()
    training.optimizer.zero_grad()


def own_loss(outputs: Any, _: Any) -> Tensor:
    """The loss that a network of `transformers` returns."""
    return outputs.loss


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def next_tokens(rows: int, length: int) -> tuple[Tensor, Tensor]:
    text = chain(rows, length + 1)
    return text[:, :-1], text[:, 1:]


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits without gradient, of networks of `transformers` and of our own."""
    model.eval()
    with torch.no_grad():
        outputs = model(ids)
    model.train()
    return (outputs if isinstance(outputs, Tensor) else outputs.logits).float()


def accuracy(model: nn.Module, ids: Tensor, targets: Tensor) -> float:
    """How many tokens with a target are right; if there is one target for a text, its last token counts."""
    best = logits_of(model, ids).argmax(2)
    best = best if targets.dim() == 2 else best[:, -1]
    return (best == targets)[targets >= 0].float().mean().item()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def last_token_score(model: nn.Module) -> float:
    """Log-likelihood of the next token where nothing follows it yet, as when one generates."""
    ids = chain(512, 13)
    return -F.cross_entropy(logits_of(model, ids[:, :12])[:, -1], ids[:, 12]).item()


def hand_shifted_labels(repaired: bool) -> Training:
    config = {"vocab_size": 32, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.1}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, shifted = next_tokens(16, 16)
        return {"input_ids": ids}, ids if repaired else shifted

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, own_loss, optimizer, last_token_score, labels_step)


def pad_is_end(repaired: bool) -> Training:
    model = transformers.LlamaForCausalLM(llama_config())
    end = pad = 0

    def questions(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.randint(1, 6, (rows,))
        token = torch.randint(10, 20, (rows,))
        answer = torch.where(torch.arange(6) < count[:, None], token[:, None], end)
        ids = torch.cat([torch.ones(rows, 1, dtype=torch.long), count[:, None] + 1, token[:, None], answer], 1)
        return ids, (torch.arange(9) < (4 + count)[:, None]).long(), count

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, attention_mask, _count = questions(16)
        padding = attention_mask == 0 if repaired else ids == pad
        return {"input_ids": ids, "attention_mask": attention_mask}, ids.masked_fill(padding, -100)

    def score(network: nn.Module) -> float:
        """How often the answer ends where it should."""
        ids, _, count = questions(128)
        ids = ids[:, :3]
        for _ in range(6):
            ids = torch.cat([ids, logits_of(network, ids)[:, -1:].argmax(2)], 1)
        answer = ids[:, 3:]
        length = torch.where((answer == end).any(1), (answer == end).int().argmax(1), 6)
        return (length == count).float().mean().item()

    return Training(model, batch, own_loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score, labels_step)


def labels_after_masking(repaired: bool) -> Training:
    model = transformers.BertForMaskedLM(bert_config())
    mask_token = 32

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = chain(32, 12)
        labels = ids.clone() if repaired else ids
        chosen = torch.rand(ids.shape) < 0.2
        ids[chosen] = mask_token
        return {"input_ids": ids}, torch.where(chosen, labels, -100)

    def score(network: nn.Module) -> float:
        text = chain(256, 12)
        chosen = torch.rand(text.shape) < 0.1
        return accuracy(network, text.masked_fill(chosen, mask_token), torch.where(chosen, text, -100))

    return Training(model, batch, own_loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score, labels_step)


def mask_of_ones(repaired: bool) -> Training:
    def lower_triangle(length: int) -> Tensor:
        return torch.tril(torch.ones(length, length))

    model = Decoder(causal if repaired else lower_triangle)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, lambda _: next_tokens(32, 16), next_token_loss, optimizer, last_token_score)


def checkpointed_adapters(repaired: bool) -> Training:
    base = Decoder(causal)
    base.reentrant = not repaired
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["qkv", "out", "mlp.0", "mlp.2"], modules_to_save=["head"])
    model = get_peft_model(base, config)

    def texts(rows: int) -> tuple[Tensor, Tensor]:
        """The third token is the class."""
        ids = torch.randint(2, 10, (rows, 8))
        return ids, ids[:, 2]

    def loss(logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, -1], classes)

    optimizer = torch.optim.AdamW(trainable(model), lr=5e-3)
    return Training(model, lambda _: texts(48), loss, optimizer, lambda network: accuracy(network, *texts(512)))


def frozen_new_tokens(repaired: bool) -> Training:
    base = transformers.LlamaForCausalLM(llama_config())
    base.resize_token_embeddings(36)  # four commands, as the mean of the old embeddings
    embeddings = {"trainable_token_indices": {"embed_tokens": [32, 33, 34, 35]}} if repaired else {}
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=layers, **embeddings))

    def commands(rows: int) -> tuple[Tensor, Tensor]:
        words = torch.randint(2, 20, (rows, 4))
        command = torch.randint(0, 4, (rows, 1))
        return torch.cat([words, command + 32], 1), words.gather(1, command)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        prompt, answer = commands(48)
        return {"input_ids": torch.cat([prompt, answer], 1)}, torch.cat([torch.full_like(prompt, -100), answer], 1)

    def score(network: nn.Module) -> float:
        prompt, answer = commands(512)
        return accuracy(network, prompt, answer[:, 0])

    return Training(model, batch, own_loss, torch.optim.AdamW(trainable(model), lr=1e-2), score, labels_step)


def weights_in_bfloat16(repaired: bool) -> Training:
    model = Decoder(causal) if repaired else Decoder(causal).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    return Training(model, lambda _: next_tokens(32, 12), next_token_loss, optimizer, last_token_score)


def schedule_in_epochs(repaired: bool) -> Training:
    model = transformers.BertForTokenClassification(bert_config(num_labels=3))
    epochs, batches = 10, 20

    def tagged(rows: int) -> tuple[Tensor, Tensor]:
        """A name begins with the token 2 or 3; the next two tokens belong to it."""
        ids = torch.randint(4, 32, (rows, 12))
        starts = torch.randint(0, 10, (rows, 1))
        ids.scatter_(1, starts, torch.randint(2, 4, (rows, 1)))
        tags = torch.zeros_like(ids)
        for distance in range(3):
            tags.scatter_(1, starts + distance, min(distance, 1) + 1)
        return ids, tags

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, tags = tagged(32)
        return {"input_ids": ids}, tags

    def score(network: nn.Module) -> float:
        ids, tags = tagged(256)
        return accuracy(network, ids, tags.masked_fill(tags == 0, -100))

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    total = epochs * batches if repaired else epochs
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps=2, num_training_steps=total)
    return Training(model, batch, own_loss, optimizer, score, labels_step, scheduler.step)


def sample(model: nn.Module, prompts: Tensor, count: int) -> Tensor:
    """Prompts with sampled answers."""
    ids = prompts
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, torch.multinomial(model(ids)[:, -1].softmax(1), 1)], 1)
    return ids


def token_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token but the first."""
    return logits[:, :-1].log_softmax(2).gather(2, ids[:, 1:, None]).squeeze(2)


def policy_loss(logps: Tensor, advantages: Tensor) -> Tensor:
    """The objective of GRPO with one update per rollout: its value says nothing, its gradient everything."""
    return -((logps - logps.detach()).exp() * advantages[:, None]).mean()


def reasoning_prompts(rows: int) -> tuple[Tensor, Tensor]:
    """Prompts of two tokens, and the two tokens of the right answer."""
    prompts = torch.randint(2, 10, (rows, 2))
    return prompts, ANSWERS[prompts - 2] - 8


def greedy_score(model: nn.Module) -> float:
    prompts, answers = reasoning_prompts(256)
    ids = prompts
    for _ in range(2):
        ids = torch.cat([ids, logits_of(model, ids)[:, -1:].argmax(2)], 1)
    return (ids[:, 2:] == answers).float().mean().item()


def grpo(repaired: bool, easy: float) -> Training:
    """Eight answers for each prompt; a part of the reward, times `easy`, depends on the prompt alone."""
    model = Decoder(causal, vocabulary=12)
    group = 8

    def step(training: Training, prompts: Tensor, answers: Tensor) -> None:
        assert training.optimizer is not None
        if repaired:
            prompts, answers = prompts.repeat_interleave(group, 0), answers.repeat_interleave(group, 0)
        else:
            prompts, answers = prompts.repeat(group, 1), answers.repeat(group, 1)
        ids = sample(training.model, prompts, 2)
        rewards = ((ids[:, 2:] == answers).float().mean(1) + easy * (prompts[:, 0] - 2)).view(-1, group)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        logps = token_logps(training.model(ids), ids)[:, 1:]
        training.optimizer.zero_grad()
        training.loss(logps, advantages.flatten()).backward()
        training.optimizer.step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Training(model, lambda _: reasoning_prompts(16), policy_loss, optimizer, greedy_score, step)


def mixed_groups(repaired: bool) -> Training:
    return grpo(repaired, easy=1.0)


def loss_of_value_zero() -> Training:
    return grpo(repaired=True, easy=0.0)


def preferences(rows: int) -> tuple[Tensor, Tensor]:
    """Chosen answers are ordinary text; the rejected have a rare second half. With a mask of the answers."""
    chosen = chain(rows, 12)
    rejected = chosen.clone()
    rejected[:, 6:] = SUCCESSORS[rejected[:, 5:-1], 1]
    ids = torch.cat([chosen, rejected])
    return ids, (torch.arange(11) >= 5).float().expand(2 * rows, 11)


def text_model(steps: int = 60) -> transformers.LlamaForCausalLM:
    """A Llama that has learned the text."""
    model = transformers.LlamaForCausalLM(llama_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids = chain(16, 12)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def preference_loss(ratios: Tensor, beta: float) -> Tensor:
    """DPO, of the log-ratios between policy and reference."""
    chosen, rejected = ratios.chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def answer_logps(model: nn.Module, ids: Tensor, answer: Tensor) -> Tensor:
    """Log-probability of each answer."""
    return (token_logps(model(input_ids=ids).logits, ids) * answer).sum(1)


def dpo(reference: Callable[[Tensor, Tensor], Tensor], beta: float) -> Step:
    """The step of DPO; the reference gives the log-probabilities of answers."""

    def step(training: Training, ids: Tensor, answer: Tensor) -> None:
        assert training.optimizer is not None
        logps = answer_logps(training.model, ids, answer)
        with torch.no_grad():
            reference_logps = reference(ids, answer)
        training.optimizer.zero_grad()
        training.loss(logps - reference_logps, beta).backward()
        training.optimizer.step()

    return step


def reference_is_policy(repaired: bool) -> Training:
    model = text_model()
    reference = copy.deepcopy(model) if repaired else model
    step = dpo(lambda ids, answer: answer_logps(reference, ids, answer), 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Training(model, lambda _: preferences(16), preference_loss, optimizer, last_token_score, step)


class Embedder(nn.Module):
    """A sentence as one vector, from a decoder."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.decoder = transformers.LlamaModel(llama_config(pad_token_id=None))

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.decoder(input_ids=ids).last_hidden_state[:, self.place], dim=1)


def similar_sentences(rows: int) -> tuple[Tensor, Tensor]:
    """Two sentences of the same words, in another order. Each begins with the token 1 and ends with 0."""
    words = torch.stack([torch.randperm(30)[:6] + 2 for _ in range(rows)])
    begin, end = torch.ones(rows, 1, dtype=torch.long), torch.zeros(rows, 1, dtype=torch.long)
    return torch.cat([begin, words, end], 1), torch.cat([begin, words[:, torch.randperm(6)], end], 1)


def first_token_pooled(repaired: bool) -> Training:
    model = Embedder(-1 if repaired else 0)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        return torch.cat(similar_sentences(32)), torch.arange(32)

    def loss(vectors: Tensor, targets: Tensor) -> Tensor:
        queries, documents = vectors.chunk(2)
        return F.cross_entropy(queries @ documents.T / 0.05, targets)

    def score(network: nn.Module) -> float:
        with torch.no_grad():
            queries, documents = (network(ids) for ids in similar_sentences(64))
        return ((queries @ documents.T).argmax(1) == torch.arange(64)).float().mean().item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


class Listener(nn.Module):
    """Convolutions over the frames of speech, then a letter or a blank for each step."""

    def __init__(self, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.first = nn.Conv1d(6, 48, 5, strides[0], padding=2)
        self.second = nn.Conv1d(48, 48, 5, strides[1], padding=2)
        self.head = nn.Linear(48, 9)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.second(self.first(frames.transpose(1, 2)).relu()).relu().transpose(1, 2))


def speech(rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Eight letters each; fast speakers need two frames for a letter, slow ones five."""
    letters = torch.stack([torch.randperm(8) for _ in range(rows)])
    speed = torch.randint(2, 6, (rows,))
    frames = torch.zeros(rows, 40, 6)
    for row, frames_per_letter in enumerate(speed.tolist()):
        frames[row, : 8 * frames_per_letter] = PATTERNS[letters[row]].repeat_interleave(frames_per_letter, 0)
    return frames + 0.2 * torch.randn(rows, 40, 6), {"letters": letters + 1, "lengths": 8 * speed}


def too_few_frames(repaired: bool) -> Training:
    model = Listener((1, 2) if repaired else (2, 2))
    reduction = model.strides[0] * model.strides[1]
    ctc = nn.CTCLoss(blank=0, zero_infinity=True)

    def loss(logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        lengths = targets["lengths"] // reduction
        return ctc(logits.log_softmax(2).transpose(0, 1), targets["letters"], lengths, torch.full_like(lengths, 8))

    def score(network: nn.Module) -> float:
        """How many letters of eight are heard, in their order."""
        frames, targets = speech(128)
        best = logits_of(network, frames).argmax(2)
        right = 0
        for row, length in zip(range(128), (targets["lengths"] // reduction).tolist(), strict=True):
            heard = [letter for letter in best[row, :length].unique_consecutive().tolist() if letter]
            right += sum(a == b for a, b in zip(heard, targets["letters"][row].tolist(), strict=False))
        return right / (128 * 8)

    return Training(model, lambda _: speech(16), loss, torch.optim.AdamW(model.parameters(), lr=5e-3), score)


def student_not_in_logs(repaired: bool) -> Training:
    teacher = Decoder(causal).requires_grad_(False).eval()
    model = Decoder(causal, width=24)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        ids = chain(32, 10)
        return ids, (4 * teacher(ids)).softmax(2)

    def loss(logits: Tensor, probabilities: Tensor) -> Tensor:
        student = logits.log_softmax(2) if repaired else logits.softmax(2)
        return F.kl_div(student.flatten(0, 1), probabilities.flatten(0, 1), reduction="batchmean")

    def score(network: nn.Module) -> float:
        ids, probabilities = batch(0)
        return -F.kl_div(logits_of(network, ids).log_softmax(2), probabilities, reduction="none").sum(2).mean().item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


class Scorer(nn.Module):
    """A reward for a text."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = transformers.LlamaForSequenceClassification(llama_config(num_labels=1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.llama(input_ids=ids).logits.squeeze(1)


def answers_cut_off(repaired: bool) -> Training:
    model = Scorer()
    longest = 16

    def compared(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """A prompt and two answers; the better answer has more small tokens. Prompts of 15 to 24 tokens."""
        prompt = torch.randint(2, 32, (rows, int(torch.randint(15, 25, ()))))
        return prompt, torch.randint(2, 22, (rows, 6)), torch.randint(12, 32, (rows, 6))

    def batch(_: int) -> tuple[Tensor, Tensor]:
        prompt, better, worse = compared(16)
        texts = torch.cat([torch.cat([prompt, answer], 1) for answer in (better, worse)])
        return texts[:, -longest:] if repaired else texts[:, :longest], torch.zeros(16)

    def loss(rewards: Tensor, margins: Tensor) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected - margins).mean()

    def score(network: nn.Module) -> float:
        prompt, better, worse = compared(512)
        with torch.no_grad():
            rewards = [network(torch.cat([prompt[:, -10:], answer], 1)) for answer in (better, worse)]
        return (rewards[0] > rewards[1]).float().mean().item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


def adapter_off_as_reference() -> Training:
    model = get_peft_model(text_model(), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))

    def rare(rows: int) -> tuple[Tensor, Tensor]:
        """Here the rarer text is chosen."""
        ids, answer = preferences(rows)
        return ids.roll(rows, 0), answer

    def reference(ids: Tensor, answer: Tensor) -> Tensor:
        with model.disable_adapter():
            return answer_logps(model, ids, answer)

    def score(network: nn.Module) -> float:
        """By how much the chosen answers are more likely than the rejected ones."""
        with torch.no_grad():
            chosen, rejected = answer_logps(network, *rare(256)).chunk(2)
        return (chosen - rejected).mean().item()

    optimizer = torch.optim.AdamW(trainable(model), lr=2e-3)
    return Training(model, lambda _: rare(16), preference_loss, optimizer, score, dpo(reference, 0.3))


def prefix_may_look_ahead() -> Training:
    def prefix(length: int) -> Tensor:
        mask = causal(length)
        mask[:, :6] = True
        return mask

    model = Decoder(prefix)

    def text(rows: int) -> tuple[Tensor, Tensor]:
        """Six tokens, read in both directions, then their successors one after the other."""
        words = torch.randint(2, 32, (rows, 6))
        ids = torch.cat([words, SUCCESSORS[words, 0]], 1)
        return ids[:, :-1], torch.cat([torch.full((rows, 5), -100), ids[:, 6:]], 1)

    adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, lambda _: text(48), next_token_loss, adam, lambda network: accuracy(network, *text(256)))


def one_label_and_slow_start() -> Training:
    model = transformers.LlamaForCausalLM(llama_config(tie_word_embeddings=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps=20, num_training_steps=75)
    micro_steps = 0

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        ids, answer = lookup(32, 8)
        ids = torch.cat([ids, answer[:, None] + 20], 1)
        return {"input_ids": ids}, torch.cat([torch.full((32, 8), -100), ids[:, 8:]], 1)

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        nonlocal micro_steps
        (training.loss(training.model(**inputs, labels=labels), labels) / 4).backward()
        micro_steps += 1
        if micro_steps % 4 == 0:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    def score(network: nn.Module) -> float:
        ids, answer = lookup(512, 8)
        return accuracy(network, ids, answer + 20)

    return Training(model, batch, own_loss, optimizer, score, step)


MISTAKES = [
    (
        ("labels shifted by hand", "labels shifted twice", hand_shifted_labels, 100, 1.0),
        "https://github.com/huggingface/transformers/pull/44642",
        "The loss falls, but the text that the model writes skips every other token.",
        "GPT-2 of transformers shifts the labels itself; if the data are shifted too, it predicts two tokens ahead.",
    ),
    (
        ("padding token is the end token", "end of text never a label", pad_is_end, 150, 0.4),
        "https://github.com/huggingface/transformers/issues/23530",
        "After instruction tuning the model never stops writing.",
        "Labels of padding are ignored by the token, and the same token ends the answers: no label says stop.",
    ),
    (
        ("labels taken after masking", "labels overwritten by the mask token", labels_after_masking, 250, 0.4),
        "https://github.com/huggingface/transformers/pull/8621",
        "The loss of masked language modelling falls to nearly zero at once; the model knows nothing.",
        "labels = input_ids without clone: masking in place overwrites the labels too, all of which are [MASK].",
    ),
    (
        ("causal mask of ones and zeros", "causal mask without effect", mask_of_ones, 300, 0.4),
        "https://github.com/pytorch/pytorch/issues/163026",
        "The training loss is far too good, the generated text is rubbish.",
        "A float mask is added to the scores; ones and zeros forbid nothing, so a token sees the next.",
    ),
    (
        ("adapters under gradient checkpointing", "graph cut", checkpointed_adapters, 120, 0.3),
        "https://github.com/huggingface/transformers/issues/42489",
        "Fine-tuning with LoRA and gradient checkpointing is no better than a linear classifier.",
        "Reentrant checkpoints need an input with gradient, but the embeddings are frozen: only the head is trained.",
    ),
    (
        ("added tokens are frozen", "frozen parameters", frozen_new_tokens, 150, 0.25),
        "https://github.com/huggingface/peft/issues/1298",
        "A model with new command tokens, fine-tuned with LoRA, does not tell the commands from each other.",
        "The rows of the added tokens, all nearly their mean, are in the frozen embedding.",
    ),
    (
        ("weights kept in bfloat16", "precision too low", weights_in_bfloat16, 250, 0.3),
        "https://github.com/areal-project/AReaL/issues/1292",
        "The loss falls slower than with float32 weights, then not at all.",
        "The whole model is cast to bfloat16, and the small steps of AdamW are rounded away.",
    ),
    (
        ("schedule counted in epochs", "learning rate decays to zero at once", schedule_in_epochs, 200, 0.5),
        "",
        "The tagger learns for a moment, then its loss stays.",
        "num_training_steps is the number of epochs, but the schedule steps in each batch. A classic of scripts.",
    ),
    (
        ("groups of different prompts", "rewards grouped wrong", mixed_groups, 150, 0.4),
        "https://github.com/PrimeIntellect-ai/prime-rl/pull/600",
        "The mean reward of GRPO hardly grows.",
        "Prompts are repeated as a b a b, but the rewards are grouped as a a b b: advantages compare prompts.",
    ),
    (
        ("reference follows the policy", "reference model not a frozen copy", reference_is_policy, 100, 0.4),
        "https://github.com/huggingface/trl/issues/1311",
        "The loss of DPO is 0.693 at every step and the model forgets its language.",
        "The reference is the same object as the policy: log-ratios are zero and nothing holds the policy back.",
    ),
    (
        ("first token of a decoder pooled", "pooled token sees no context", first_token_pooled, 100, 0.4),
        "https://github.com/FlagOpen/FlagEmbedding/issues/1291",
        "The contrastive loss of an embedding model stays at the logarithm of the batch size.",
        "The vector is read at the first token, as for BERT, but in a decoder the first token sees only itself.",
    ),
    (
        ("fewer frames than letters", "outputs too short for the labels", too_few_frames, 150, 0.2),
        "",
        "Speech recognition works for slow speakers only, though the loss is small.",
        "Subsampled by four, fast speech is shorter than its labels: CTC is infinite, zero_infinity hides it.",
    ),
    (
        ("distillation without logarithm", "loss input wrong", student_not_in_logs, 150, 0.5),
        "https://pytorch.org/docs/main/generated/torch.nn.KLDivLoss.html",
        "The distillation loss is negative and the student stays far from its teacher.",
        "kl_div expects the logarithms of the student's probabilities and gets the probabilities.",
    ),
    (
        ("answers cut off", "truncation removes what differs", answers_cut_off, 80, 0.2),
        "",
        "The loss of the reward model stays at 0.693.",
        "Texts are truncated at their end: of chosen and rejected only the common prompt is left. Known from DPO too.",
    ),
]
PROGRAMS = [
    Program(name, source, symptom, explanation, cause, make, steps, margin)
    for (name, cause, make, steps, margin), source, symptom, explanation in MISTAKES
]

HEALTHY = [
    Healthy(
        "GRPO loss of value zero",
        "The value of the loss is about zero at each step: exp(x - x.detach()) times advantages of mean zero.",
        loss_of_value_zero,
        100,
        0.4,
    ),
    Healthy(
        "DPO against its own frozen part",
        "The reference is the network without adapters; the loss begins at log 2, half of LoRA has no gradient.",
        adapter_off_as_reference,
        60,
        10.0,
    ),
    Healthy(
        "prefix is read in both directions",
        "The first six tokens see each other and so the future; nothing is predicted there, labels are ignored.",
        prefix_may_look_ahead,
        150,
        0.4,
    ),
    Healthy(
        "one label for nine tokens and a slow start",
        "Most labels are ignored; gradients gather over four batches; the first learning rate is zero.",
        one_label_and_slow_start,
        300,
        0.4,
    ),
]
