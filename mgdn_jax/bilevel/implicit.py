"""Implicit differentiation: a linear system with the inner Hessian, solved by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Int

from mgdn_jax.bilevel.descent import Descent, Loss, Scalar
from mgdn_jax.bilevel.subsets import PyTree
from mgdn_jax.errors import InputError

_ROUNDING = 1e-3
"""Norm of a gradient that steps from an optimum may come to."""


@dataclass(frozen=True)
class Solver:
    """How mode "implicit" solves ``(H + damping I) z = u``; H is the inner Hessian.

    Attributes:
        damping: weight of a proximal term ``damping / 2 |theta - theta_0|^2`` that joins the inner
            loss, theta_0 being the parameters handed in: it makes a non-convex problem
            well-posed. Take 0 only where H is known to be positive definite.
        method: "cg" (conjugate gradients) or "neumann" (the series ``rate sum_i (I - rate (H +
            damping I))^i u``, cut off).
        iterations: most products with H, at least 1.
        tolerance: the solver stops when ``|u - (H + damping I) z| <= tolerance |u|``.
        rate: step of the Neumann series, above 0 and below 2 over the largest eigenvalue of
            H + damping I.

    Raises:
        InputError: an unknown method, or a number out of its range.
    """

    damping: float
    method: str = "cg"
    iterations: int = 50
    tolerance: float = 1e-6
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("cg", "neumann"):
            raise InputError(f"Solver method is 'cg' or 'neumann', not {self.method!r}.")
        if not self.damping >= 0:
            raise InputError(f"Solver needs a damping of 0 or more, got {self.damping}.")
        if self.iterations < 1:
            raise InputError(f"Solver needs at least 1 iteration, got {self.iterations}.")
        if self.method == "neumann" and not self.rate > 0:
            raise InputError("Solver method 'neumann' needs a rate above 0, e.g. the inner one.")


class Solution(NamedTuple):
    """Diagnostics of mode "implicit". Look at `fault`: a compiled function cannot raise.

    Attributes:
        residual: ``|u - (H + damping I) z| / |u|``.
        iterations: products with the Hessian.
        converged: whether the residual is within the tolerance.
        curvature: smallest ``<p, (H + damping I) p> / |p|^2`` met. Conjugate gradients stop where
            it is not positive: the damping is then too small. inf when nothing was to be solved.
        stationarity: norm of the inner gradient (proximal term included) where the implicit
            function theorem was applied. It assumes 0; take more `steps` if this is not small.
        before: the same norm before the first inner step.
    """

    residual: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    curvature: Scalar
    stationarity: Scalar
    before: Scalar

    def fault(self, residual: float = 1e-2, stationarity: float = math.inf) -> str:
        """What makes the gradient worthless, in one sentence; "" if nothing does.

        Call it outside compiled functions, after every meta-gradient.

        Args:
            residual: largest one that will do.
            stationarity: largest norm of the inner gradient that will do. Whatever it is, a norm
                that the inner steps doubled is a fault.
        """
        if math.isfinite(self.stationarity) and not self.curvature > 0:
            return (
                f"the inner Hessian has curvature {float(self.curvature):.3g} with its damping and"
                " is not positive definite; raise the Solver's damping."
            )
        if has_grown(float(self.before), float(self.stationarity)):
            return (
                f"the inner steps diverged, their gradient went from {float(self.before):.3g} to"
                f" {float(self.stationarity):.3g}; lower the inner rate."
            )
        if not self.residual <= residual:
            return (
                f"the linear solve ended at a residual of {float(self.residual):.3g} after"
                f" {int(self.iterations)} iterations; give the Solver more, or raise its damping."
            )
        if not self.stationarity <= stationarity:
            return (
                f"the inner gradient still has norm {float(self.stationarity):.3g}, and the theorem"
                " takes it to be 0; take more inner steps."
            )
        return ""


def has_grown(before: float, after: float) -> bool:
    """Whether inner steps led away from where their gradient is 0: it doubled, or is not finite."""
    return not math.isfinite(after) or after > 2 * before + _ROUNDING


def proximal(loss: Loss, anchor: PyTree, damping: float) -> Loss:
    """The loss plus ``damping / 2 |theta - anchor|^2``.

    Args:
        loss: `(theta, context, batch) -> (scalar, aux)`.
        anchor: parameters in theta's structure.
        damping: weight of the term, 0 or more.
    """

    def damped(theta: PyTree, context: PyTree, batch: PyTree) -> tuple[Scalar, PyTree]:
        value, aux = loss(theta, context, batch)
        way = optax.tree.norm(optax.tree.sub(theta, anchor), squared=True)
        return value + damping / 2 * way, aux

    return damped


def solve(
    descent: Descent,
    theta: PyTree,
    context: PyTree,
    batch: PyTree,
    u: PyTree,
    solver: Solver,
    *,
    start: PyTree,
) -> tuple[PyTree, Solution]:
    """Solves ``(H + damping I) z = u`` for z.

    Args:
        descent: on the `proximal` loss, whose Hessian is H + damping I.
        theta: where the Hessian is taken.
        context: of the loss.
        batch: of the loss.
        u: right-hand side, in theta's structure, equal on all devices.
        solver: method and when to stop.
        start: what the inner steps began with.

    Returns:
        z in theta's structure, and the diagnostics.
    """

    def product(z: PyTree) -> PyTree:
        return descent.mean(descent.hessian(theta, context, batch, z))

    z, (remainder, count, curvature) = _iterate(product, u, solver)
    size = optax.tree.norm(u)
    residual = remainder / jnp.where(size > 0, size, 1)
    before, after = (
        optax.tree.norm(descent.gradient(x, context, batch)[0]) for x in (start, theta)
    )
    return z, Solution(residual, count, residual <= solver.tolerance, curvature, after, before)


def _iterate(product: Callable, u: PyTree, solver: Solver) -> tuple[PyTree, Any]:
    """Solves ``product(z) = u`` from z = 0; -> z, (|residual|, iterations, least curvature).

    Conjugate gradients, or the truncated series as ``z <- z + rate (u - product(z))``.
    """
    norm, dot, add_scale = optax.tree.norm, optax.tree.vdot, optax.tree.add_scale
    conjugate = solver.method == "cg"

    def unfinished(state: Any) -> Array:
        _, r, _, count, curvature = state
        far = norm(r) > solver.tolerance * norm(u)
        return (count < solver.iterations) & far & ((curvature > 0) | (not conjugate))

    def body(state: Any) -> Any:
        z, r, p, count, curvature = state
        image = product(p)
        bend, rr = dot(p, image), dot(r, r)
        curvature = jnp.minimum(curvature, bend / dot(p, p))
        # Along a direction of negative curvature there is no step to take: z stays as it is.
        length = jnp.where(bend > 0, rr / bend, 0) if conjugate else solver.rate
        z, r = add_scale(z, length, p), add_scale(r, -length, image)
        p = add_scale(r, dot(r, r) / rr, p) if conjugate else r
        return z, r, p, count + 1, curvature

    start = optax.tree.zeros_like(u), u, u, jnp.int32(0), jnp.full((), jnp.inf, norm(u).dtype)
    z, r, _, count, curvature = lax.while_loop(unfinished, body, start)
    return z, (norm(r), count, curvature)
