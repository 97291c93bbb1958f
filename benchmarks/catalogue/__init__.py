"""Broken and healthy networks, by family: what a tool that diagnoses networks should and should not say."""

from catalogue import conv, heads, mlp, precision, recurrent, residual, trainings, transformer
from catalogue.case import Case

FAMILIES = {
    "mlp": mlp,
    "heads": heads,
    "conv": conv,
    "residual": residual,
    "recurrent": recurrent,
    "transformer": transformer,
    "precision": precision,
    "training": trainings,
}
BROKEN: dict[str, tuple[Case, ...]] = {name: family.BROKEN for name, family in FAMILIES.items()}
HEALTHY: dict[str, tuple[Case, ...]] = {name: family.HEALTHY for name, family in FAMILIES.items()}
