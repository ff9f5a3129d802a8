"""Meta-gradients: the gradient of an outer loss through an inner optimisation.

    minimise over phi    L_out(theta'(phi), phi)
    where theta'(phi) =  K steps of an Optax transformation on L_in(theta, phi), starting at theta

`meta_gradient` builds a function that returns L_out and its exact gradient to phi. The gradient
passes through all inner steps and through the optimiser's state. Both parameter sets are pytrees
and both losses are functions; the package knows nothing else about them. It uses reverse mode
only, so functions with a custom backward pass (`jax.custom_vjp`) may take part if that pass can
itself be differentiated.

There is no "first order" mode, which would stop gradients at the inner step: where phi acts only
through the inner loss, that gradient is identically zero. Where phi enters the outer loss itself,
it is ``jax.grad(outer_loss, 1)``, or mode "rank_one" with a factor of 0; where phi is the starting
point of theta, `initialisation_gradient` has it.
docs/extend/learned_losses.md has the mathematics.
"""

from mgdn_jax.bilevel.gradient import MODES, MetaAux, check, meta_gradient
from mgdn_jax.bilevel.implicit import Solution, Solver
from mgdn_jax.bilevel.initialisation import (
    INITIALISATIONS,
    InitialisationAux,
    initialisation_gradient,
)
from mgdn_jax.bilevel.problem import Auxiliary
from mgdn_jax.bilevel.rank_one import RankOne
from mgdn_jax.bilevel.subsets import PyTree, Trainable, combine, partition
from mgdn_jax.bilevel.transforms import scale_by_length, scale_by_max_abs

__all__ = [
    "INITIALISATIONS",
    "MODES",
    "Auxiliary",
    "InitialisationAux",
    "MetaAux",
    "PyTree",
    "RankOne",
    "Solution",
    "Solver",
    "Trainable",
    "check",
    "combine",
    "initialisation_gradient",
    "meta_gradient",
    "partition",
    "scale_by_length",
    "scale_by_max_abs",
]
