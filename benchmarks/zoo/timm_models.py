"""One small model of every family of timm, which is a module of `timm.models`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from catalogue.case import Problem
from zoo.network import KINDS, SAMPLES, SIZE, Network, images, package

VIT: dict[str, Any] = {"img_size": SIZE, "embed_dim": 96, "depth": 4, "num_heads": 3}
TINY: dict[str, Any] = {"embed_dim": 96, "depth": 4, "num_heads": 3}
RESIZED = {"img_size": SIZE}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", VIT),
    "byoanet": ("lambda_resnet26t", {}),
    "byobnet": ("repvgg_a0", {}),
    "cait": ("cait_xxs24_224", RESIZED),
    "coat": ("coat_lite_tiny", RESIZED),
    "convit": ("convit_tiny", RESIZED),
    "convmixer": ("convmixer.ConvMixer", {"dim": 128, "depth": 8}),
    "convnext": ("convnext_atto", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}),
    "csatv2": ("csatv2", {}),
    "cspnet": ("cs3darknet_s", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {}),
    "deepseek_vit": ("deepseek_vit_412m", TINY | {"img_size": 56}),
    "deit": ("deit_tiny_patch16_224", RESIZED),
    "densenet": ("densenet121", {}),
    "dla": ("dla46_c", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {}),
    "efficientformer_v2": ("efficientformerv2_s0", RESIZED),
    "efficientnet": ("efficientnet_b0", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", RESIZED),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", RESIZED),
    "gemma4_vit": ("gemma4_vit_167m", TINY | {"head_dim": 32, "num_kv_heads": 3}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_a", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", RESIZED),
    "hieradet_sam2": ("hieradet_small", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}),
    "inception_v3": ("inception_v3", {}),
    "inception_v4": ("inception_v4", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("mambaout_femto", {}),
    "maxxvit": ("coatnet_pico_rw_224", RESIZED),
    "metaformer": ("poolformer_s12", {}),
    "mlp_mixer": ("mixer_s32_224", RESIZED),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", VIT),
    "nasnet": ("nasnetalarge", {"stem_size": 24, "num_features": 960}),
    "nest": ("nest_tiny", RESIZED),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("nf_resnet26", {}),
    "pit": ("pit_ti_224", RESIZED),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "qwen3_vit": ("qwen3_vit_88m", TINY),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnety_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m0_9", {}),
    "res2net": ("res2net50_14w_8s", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("resnet18", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnetr_100", {}),
    "selecsls": ("selecsls42", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", RESIZED),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", RESIZED),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", RESIZED),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", RESIZED),
    "tiny_vit": ("tiny_vit_5m_224", {}),
    "tnt": ("tnt_s_patch16_224", RESIZED),
    "tresnet": ("tresnet_m", {}),
    "twins": ("twins_svt_small", RESIZED),
    "vgg": ("vgg11", {}),
    "visformer": ("visformer_tiny", RESIZED),
    "vision_transformer": ("vit_tiny_patch16_224", RESIZED),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", RESIZED),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", RESIZED),
    "vision_transformer_sam": ("samvit_base_patch16", VIT),
    "vitamin": ("vitamin_small_224", RESIZED),
    "volo": ("volo_d1_224", RESIZED),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41", {}),
    "xcit": ("xcit_nano_12_p16_224", RESIZED),
}
"""By family: the model, and what makes it smaller."""
SIZES = {
    "efficientformer_l1": 224,
    "inception_resnet_v2": 139,
    "inception_v3": 96,
    "inception_v4": 139,
    "levit_128s": 224,
}
"""Images of models whose builders have no option for it."""
RATES = {"mobilenetv5": 1e-4, "vgg": 1e-4}
"""At 1e-3, the loss of the first rises from 8 to 43, and nine of ten units of the second die: neither is healthy."""


def classifier(name: str, options: dict[str, Any]) -> Problem:
    size = SIZES.get(name, options.get("img_size", SIZE))
    module, _, cls = name.rpartition(".")
    if module:
        model = getattr(package(f"timm.models.{module}"), cls)(num_classes=KINDS, **options)
    else:
        model = package("timm").create_model(name, pretrained=False, num_classes=KINDS, **options)
    return model, *images(SAMPLES if size <= SIZE else 4, size), nn.functional.cross_entropy


def networks() -> Iterator[Network]:
    for family, (name, options) in MODELS.items():
        yield Network(f"{family}: {name}", partial(classifier, name, options), rate=RATES.get(family, 1e-3))
