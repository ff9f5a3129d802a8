"""The rank-one approximation of an implicit gradient, as architecture search uses it.

Where the inner gradient f_theta stands for the whole inner curvature, ``f_theta theta ~ f_theta
f_theta^T`` and ``f_phi theta ~ f_phi f_theta^T``, the implicit gradient of the outer loss F becomes

    F_phi - r f_phi,     r = <F_theta, f_theta> / <f_theta, f_theta>

at the current theta, without an inner step and without a second derivative. How near that is to
the exact gradient depends on the problem, and nothing here can tell. TIM (arXiv 2305.15862)
publishes the same formula with the other sign and a factor, ``F_phi + rate r f_phi``: at a rate of
0.01 that is the first-order gradient F_phi, but for a hundredth of the second term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from mgdn_jax.bilevel.descent import Scalar
from mgdn_jax.bilevel.subsets import PyTree
from mgdn_jax.errors import InputError


@dataclass(frozen=True)
class RankOne:
    """How mode "rank_one" forms its gradient, ``F_phi + factor r f_phi``.

    Attributes:
        factor: -1 is the form that follows from the implicit function theorem, "derived"; 0 leaves
            F_phi, the first-order gradient; the rate of the weights is the form that TIM
            publishes (`published`).
        epsilon: joins the denominator of r, so that a stationary inner point gives r = 0 and not
            0 / 0; 0 as published.

    Raises:
        InputError: a number that is not finite, or a negative epsilon.
    """

    factor: float = -1.0
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise InputError(f"RankOne needs a finite factor, got {self.factor}.")
        if not 0 <= self.epsilon < math.inf:
            raise InputError(f"RankOne needs an epsilon of 0 or more, got {self.epsilon}.")

    @classmethod
    def derived(cls) -> RankOne:
        """``F_phi - r f_phi``, which follows from the implicit function theorem; the default."""
        return cls()

    @classmethod
    def published(cls, rate: float) -> RankOne:
        """``F_phi + rate r f_phi`` without an epsilon: TIM's search gradient as released.

        Args:
            rate: what the release calls eta, the learning rate of the weights.
        """
        return cls(factor=rate, epsilon=0.0)

    def ratio(self, outer: PyTree, inner: PyTree) -> Scalar:
        """The factor times r of the gradients of both losses to theta, averaged over devices."""
        product, square = optax.tree.vdot(outer, inner), optax.tree.vdot(inner, inner)
        return self.factor * product / (square + self.epsilon)

    def combine(self, direct: PyTree, indirect: PyTree, ratio: Scalar) -> PyTree:
        """``direct + ratio indirect``: the gradients of F and f to phi."""
        return jax.tree.map(
            lambda F, f: F + (ratio * f).astype(jnp.result_type(F)), direct, indirect
        )
