"""All programs with a mistake."""

from importlib import import_module

from modern_failures_strangers.program import Program

SUBJECTS = (
    "language_models",
    "padding",
    "adapters",
    "loops",
    "preferences",
    "policy_gradients",
    "diffusion",
    "contrastive",
    "self_supervised",
    "quantisation",
    "experts",
    "speech",
    "distillation",
    "vision",
    "by_hand",
)

PROGRAMS: list[Program] = [
    program for subject in SUBJECTS for program in import_module(f"modern_failures_strangers.{subject}").PROGRAMS
]
