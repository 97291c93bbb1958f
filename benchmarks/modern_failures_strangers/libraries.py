"""Tiny networks of the library transformers, from a configuration, and its way of a step. Nothing is downloaded."""

import transformers
from torch import Tensor, nn

from modern_failures_strangers.data import END, PAD
from real_failures.program import Training

transformers.logging.set_verbosity_error()


def gpt2(vocabulary: int = 12, length: int = 24, layers: int = 1, dropout: float = 0.0) -> transformers.GPT2LMHeadModel:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocabulary,
            n_positions=length,
            n_embd=32,
            n_layer=layers,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=END,
            eos_token_id=END,
            initializer_range=0.1,
        )
    )


def llama(vocabulary: int = 12, kind: type = transformers.LlamaForCausalLM, **options: object) -> nn.Module:
    return kind(
        transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            initializer_range=0.1,
            **{"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": END, **options},
        )
    )


def bert(vocabulary: int = 12, kind: type = transformers.BertForMaskedLM, **options: object) -> nn.Module:
    return kind(
        transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,
            pad_token_id=PAD,
            **options,
        )
    )


def t5(vocabulary: int = 12) -> transformers.T5ForConditionalGeneration:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=END,
            decoder_start_token_id=PAD,
        )
    )


def call_with_labels(training: Training, inputs: dict[str, Tensor], targets: object) -> None:
    """A step as the trainer of transformers does it: the labels are inputs, the loss is an output."""
    training.optimizer.zero_grad()
    training.model(**inputs).loss.backward()
    training.optimizer.step()
