"""Architectures of Transformers, shrunk by their configurations; each computes its own loss."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from catalogue.case import Problem
from zoo.network import KINDS, Network, images, package, walks

Inputs = Callable[[Any], dict[str, Tensor]]

SMALL: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 3)
    | dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 3)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim"), 64)
    | {"vocab_size": 96, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "max_position_embeddings": 64}
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    | {"image_size": 32, "patch_size": 8}
)
"""Values for the fields of these names that a configuration has."""


def built(kind: str, head: str, changes: dict[str, Any]) -> Any:
    """A model with a head, such as "ForMaskedLM", of a small configuration."""
    library = package("transformers")
    known = library.AutoConfig.for_model(kind)
    options = {name: value for name, value in SMALL.items() if name in known.to_dict()} | changes
    config = library.AutoConfig.for_model(kind, num_labels=KINDS, **options)
    return (
        getattr(library, head)(config)
        if hasattr(library, head)
        else getattr(library, f"AutoModel{head}").from_config(config)
    )


def problem(kind: str, head: str, inputs: Inputs, changes: dict[str, Any]) -> Problem:
    model = built(kind, head, changes)
    return model, inputs(model.config), None, lambda outputs, _: outputs.loss


def text(config: Any) -> dict[str, Tensor]:
    """Every token is the label of the one before, as causal models shift their labels themselves."""
    tokens = walks()
    return {"input_ids": tokens, "labels": tokens}


def masked(config: Any) -> dict[str, Tensor]:
    tokens = walks()
    hidden = torch.rand(tokens.shape) < 0.2
    return {"input_ids": tokens.masked_fill(hidden, 3), "labels": tokens.masked_fill(~hidden, -100)}


def labelled(config: Any) -> dict[str, Tensor]:
    tokens = walks()
    return {"input_ids": tokens, "labels": tokens[:, 0] % KINDS}


def pixels(config: Any) -> dict[str, Tensor]:
    inputs, targets = images(size=config.image_size if isinstance(getattr(config, "image_size", None), int) else 64)
    return {"pixel_values": inputs, "labels": targets}


def pictures(config: Any) -> dict[str, Tensor]:
    """Images without labels."""
    return {"pixel_values": pixels(config)["pixel_values"]}


def maps(config: Any) -> dict[str, Tensor]:
    """The class of each pixel is the sign of the first channel."""
    inputs, _ = images(8)
    return {"pixel_values": inputs, "labels": (inputs[:, 0] > 0).long()}


def boxes(config: Any) -> dict[str, Any]:
    inputs, targets = images(4)
    labels = [{"class_labels": y[None], "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])} for y in targets]
    return {"pixel_values": inputs, "labels": labels}


def pairs(config: Any) -> dict[str, Any]:
    """Images with their texts."""
    inputs, targets = images(16, config.vision_config.image_size)
    tokens = 4 + targets[:, None] + torch.arange(8)[None]
    tokens[:, -1] = 2
    return {"input_ids": tokens, "pixel_values": inputs, "return_loss": True}


def sound(config: Any) -> dict[str, Tensor]:
    """Tones, by class, in noise."""
    targets = torch.arange(16) % KINDS
    waves = torch.sin(0.05 * (1 + targets[:, None]) * torch.arange(4000)) + 0.1 * torch.randn(16, 4000)
    return {"input_values": waves, "labels": targets}


def spectra(config: Any) -> dict[str, Tensor]:
    """Spectrograms with the tokens that are heard."""
    tokens = walks(8, 12)
    features = torch.randn(96, config.num_mel_bins)[tokens].repeat_interleave(5, 1).mT[:, :, :60]
    return {"input_features": features + 0.1 * torch.randn(features.shape), "labels": tokens}


def series(config: Any) -> dict[str, Tensor]:
    phases = torch.rand(SERIES, 1)
    time = torch.arange(40)[None]
    values = torch.sin(0.4 * time + 6 * phases) + 0.1 * torch.randn(SERIES, 40)
    return {
        "past_values": values[:, :32],
        "past_time_features": time[:, :32, None].expand(SERIES, -1, -1) / 40,
        "past_observed_mask": torch.ones(SERIES, 32),
        "future_values": values[:, 32:],
        "future_time_features": time[:, 32:, None].expand(SERIES, -1, -1) / 40,
    }


def patches(config: Any) -> dict[str, Tensor]:
    values = series(config)
    return {"past_values": values["past_values"][..., None], "future_values": values["future_values"][..., None]}


SERIES = 32
CONV = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (10, 4), "num_conv_pos_embedding_groups": 4,
        "num_conv_pos_embeddings": 16, "num_feat_extract_layers": 2, "classifier_proj_size": 16}  # fmt: skip
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]}
TEXT = {
    name: SMALL[name]
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    )
}
VISION = {
    name: SMALL[name]
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
    )
}
TWO = {"text_config": TEXT | {"projection_size": 32}, "vision_config": VISION, "projection_dim": 32}
BACKBONE = STAGES | {"model_type": "resnet", "embedding_size": 16, "out_features": ["stage4"]}
START = {"decoder_start_token_id": 0}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip
TIME = {"prediction_length": 8, "context_length": 28, "lags_sequence": [1, 2, 4], "num_time_features": 1}

MODELS: tuple[tuple[str, str, Inputs, dict[str, Any]], ...] = (
    ("bert", "ForMaskedLM", masked, {}),
    ("bert", "ForSequenceClassification", labelled, {}),
    ("roberta", "ForMaskedLM", masked, {}),
    ("albert", "ForMaskedLM", masked, {}),
    ("distilbert", "ForMaskedLM", masked, {}),
    ("electra", "ForMaskedLM", masked, {}),
    ("deberta", "ForMaskedLM", masked, {}),
    ("deberta-v2", "ForMaskedLM", masked, {"relative_attention": True, "position_buckets": 16,
                                           "pos_att_type": ["p2c", "c2p"]}),
    ("mpnet", "ForMaskedLM", masked, {}),
    ("xlnet", "ForSequenceClassification", labelled, {"d_inner": 64}),
    ("funnel", "ForMaskedLM", masked, {"block_sizes": [1, 1], "d_inner": 64, "d_head": 8}),
    ("convbert", "ForMaskedLM", masked, {}),
    ("mobilebert", "ForMaskedLM", masked, {"intra_bottleneck_size": 16, "true_hidden_size": 16}),
    ("squeezebert", "ForMaskedLM", masked, {}),
    ("fnet", "ForMaskedLM", masked, {}),
    ("roformer", "ForMaskedLM", masked, {}),
    ("big_bird", "ForMaskedLM", masked, {"attention_type": "original_full"}),
    ("nystromformer", "ForMaskedLM", masked, {"num_landmarks": 4, "segment_means_seq_len": 24}),
    ("modernbert", "ForMaskedLM", masked, {}),
    ("rembert", "ForMaskedLM", masked, {}),
    ("gpt2", "ForCausalLM", text, {}),
    ("gpt_neo", "ForCausalLM", text, {"attention_types": [[["global", "local"], 1]], "num_layers": 2}),
    ("gpt_neox", "ForCausalLM", text, {}),
    ("gptj", "ForCausalLM", text, {"rotary_dim": 4}),
    ("opt", "ForCausalLM", text, {}),
    ("bloom", "ForCausalLM", text, {}),
    ("llama", "ForCausalLM", text, {}),
    ("mistral", "ForCausalLM", text, {}),
    ("mixtral", "ForCausalLM", text, EXPERTS),
    ("qwen2", "ForCausalLM", text, {}),
    ("qwen3", "ForCausalLM", text, {}),
    ("qwen3_moe", "ForCausalLM", text, EXPERTS),
    ("gemma2", "ForCausalLM", text, {}),
    ("phi", "ForCausalLM", text, {}),
    ("falcon", "ForCausalLM", text, {}),
    ("olmo2", "ForCausalLM", text, {}),
    ("mamba", "ForCausalLM", text, {}),
    ("rwkv", "ForCausalLM", text, {"attention_hidden_size": 32, "use_cache": False}),
    ("t5", "ForSeq2SeqLM", text, START),
    ("bart", "ForSeq2SeqLM", text, {}),
    ("pegasus", "ForSeq2SeqLM", text, {}),
    ("marian", "ForSeq2SeqLM", text, {}),
    ("switch_transformers", "ForSeq2SeqLM", text, START | {"num_experts": 4}),
    ("vit", "ForImageClassification", pixels, {}),
    ("beit", "ForImageClassification", pixels, {"image_size": 64, "use_relative_position_bias": True}),
    ("dinov2", "ForImageClassification", pixels, {}),
    ("swin", "ForImageClassification", pixels, {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
                                                "window_size": 4, "patch_size": 4}),
    ("convnextv2", "ForImageClassification", pixels, STAGES | {"image_size": 64}),
    ("resnet", "ForImageClassification", pixels, {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 16}),
    ("mobilevit", "ForImageClassification", pixels, {"image_size": 64, "patch_size": 2, "hidden_sizes": [16, 24, 32],
                                                     "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 48],
                                                     "initializer_range": 0.2}),
    ("segformer", "ForSemanticSegmentation", maps, STAGES | {"decoder_hidden_size": 32,
                                                             "num_attention_heads": [1, 1, 2, 2]}),
    ("vit_mae", "ForPreTraining", pictures, {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2,
                                             "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}),
    ("detr", "ForObjectDetection", boxes, {"backbone_config": BACKBONE, "num_queries": 10}),
    ("yolos", "ForObjectDetection", boxes, {"image_size": [64, 64], "num_detection_tokens": 10}),
    ("clip", "CLIPModel", pairs, TWO),
    ("siglip", "SiglipModel", pairs, TWO),
    ("wav2vec2", "ForAudioClassification", sound, CONV),
    ("hubert", "ForAudioClassification", sound, CONV),
    ("whisper", "ForSpeechSeq2Seq", spectra, {"max_source_positions": 30, "max_target_positions": 16}),
    ("time_series_transformer", "TimeSeriesTransformerForPrediction", series, TIME),
    ("patchtst", "PatchTSTForPrediction", patches, {"context_length": 32, "prediction_length": 8, "patch_length": 8,
                                            "patch_stride": 8, "num_input_channels": 1}),
)  # fmt: skip

TRUE = {"funnel": {"US607": "word vectors of size 1 are the weights of the last layer: the first loss is 27 of 4.6"}}
"""Rules that accuse an architecture rightly."""


def networks() -> Iterator[Network]:
    for kind, head, inputs, changes in MODELS:
        yield Network(f"{kind} {head}", partial(problem, kind, head, inputs, changes), true=TRUE.get(kind, {}))
