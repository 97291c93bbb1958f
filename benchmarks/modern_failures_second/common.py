"""Small networks that several programs use."""

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel


def tiny_gpt(vocabulary: int = 16, positions: int = 16, width: int = 32, tied: bool = True) -> GPT2LMHeadModel:
    """A causal language model without dropout."""
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=1, n_head=2, initializer_range=0.1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    return GPT2LMHeadModel(config).train()


def update(training, loss: Tensor) -> None:
    """One step of the optimizer."""
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()


def layer(width: int = 32, heads: int = 4) -> nn.TransformerEncoderLayer:
    """A layer of a transformer without dropout."""
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)


def explained(guess: Tensor, target: Tensor) -> float:
    """Part of the variance that the guess explains."""
    return 1 - ((guess - target) ** 2).mean().item() / target.var().item()


def signals(rows: int, length: int = 10, classes: int = 4, pads: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Noise words (7 to 15) with one signal word (3 to 6) after the first place; its class; the mask of real words."""
    tokens, labels = torch.randint(7, 16, (rows, length)), torch.randint(classes, (rows,))
    lengths = torch.randint(length // 2, length, (rows,)) if pads else torch.full((rows,), length)
    place = 1 + (torch.rand(rows) * (lengths - 1)).long()
    tokens[torch.arange(rows), place] = 3 + labels
    mask = torch.arange(length) < lengths[:, None]
    return tokens * mask, labels, mask


def by_name(training, inputs: dict[str, Tensor], targets: Tensor) -> None:
    """The usual step, for inputs with names."""
    update(training, training.loss(training.model(**inputs), targets))
