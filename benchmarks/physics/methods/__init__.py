"""The networks that are compared, all with `depth` hidden layers of `width` neurons."""

from physics.methods import adaptive, cores, factorised, gated, plain, waves
from physics.methods.method import Method

METHODS: dict[str, Method] = {
    method.name: method for file in (plain, cores, adaptive, factorised, gated, waves) for method in file.METHODS
}

__all__ = ["METHODS", "Method"]
