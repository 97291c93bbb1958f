"""All programs."""

from modern_failures_third import decisions, images, language

PROGRAMS = [*language.PROGRAMS, *images.PROGRAMS, *decisions.PROGRAMS]
HEALTHY = [*language.HEALTHY, *images.HEALTHY, *decisions.HEALTHY]
