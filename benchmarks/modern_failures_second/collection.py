"""All programs."""

from modern_failures_second import contrast, diffuse, experts, healthy, lora, prefer, seq, text

PROGRAMS = [program for module in (text, lora, prefer, diffuse, contrast, experts, seq) for program in module.PROGRAMS]
HEALTHY = healthy.HEALTHY
