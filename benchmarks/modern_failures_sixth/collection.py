"""All programs."""

from modern_failures_sixth import images, language, others

PROGRAMS = [*language.PROGRAMS, *images.PROGRAMS, *others.PROGRAMS]
HEALTHY = [*language.HEALTHY, *images.HEALTHY, *others.HEALTHY]
