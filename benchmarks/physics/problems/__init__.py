"""The differential equations, one a file."""

from physics.problem import Problem
from physics.problems.allen_cahn import ALLEN_CAHN
from physics.problems.burgers import BURGERS
from physics.problems.burgers_2d import BURGERS_2D
from physics.problems.convection import CONVECTION_10, CONVECTION_30
from physics.problems.heat_long import HEAT_LONG
from physics.problems.heat_scales import HEAT_SCALES
from physics.problems.helmholtz import HELMHOLTZ
from physics.problems.korteweg_de_vries import KORTEWEG_DE_VRIES
from physics.problems.navier_stokes import NAVIER_STOKES
from physics.problems.poisson_3d import POISSON_3D
from physics.problems.poisson_holes import POISSON_HOLES
from physics.problems.poisson_inverse import POISSON_INVERSE
from physics.problems.poisson_scales import POISSON_SCALES
from physics.problems.reaction import REACTION
from physics.problems.wave import WAVE

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        BURGERS,
        REACTION,
        CONVECTION_10,
        POISSON_SCALES,
        HELMHOLTZ,
        ALLEN_CAHN,
        CONVECTION_30,
        WAVE,
        POISSON_HOLES,
        HEAT_LONG,
        NAVIER_STOKES,
        POISSON_INVERSE,
        KORTEWEG_DE_VRIES,
        BURGERS_2D,
        HEAT_SCALES,
        POISSON_3D,
    )
}
