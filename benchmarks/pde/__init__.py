"""Differential equations for `pinn.py`, with solutions that are exact or computed here, and tested."""

from pde.allen_cahn import ALLEN_CAHN
from pde.burgers import BURGERS
from pde.helmholtz import HELMHOLTZ
from pde.poisson import POISSON
from pde.problem import Problem

PROBLEMS = {p.name: p for p in (BURGERS, HELMHOLTZ, POISSON, ALLEN_CAHN)}

__all__ = ["PROBLEMS", "Problem"]
