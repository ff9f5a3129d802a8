"""The gradient of an outer loss through an inner optimisation, one function a mode."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mgdn_jax.bilevel.descent import (
    Loss,
    Scalar,
    require_finite_derivative,
    require_gradients_alone,
)
from mgdn_jax.bilevel.implicit import Solution, Solver, proximal, solve
from mgdn_jax.bilevel.problem import Auxiliary, Problem, Settings, prepare
from mgdn_jax.bilevel.rank_one import RankOne
from mgdn_jax.bilevel.subsets import PyTree, Trainable, combine
from mgdn_jax.errors import InputError

MODES = ("unrolled", "mixed_product", "mixed_difference", "implicit", "rank_one")


class MetaAux(NamedTuple):
    """What a meta-gradient returns beside value and gradient; None where it does not apply.

    Attributes:
        inner_losses: (K,) inner loss before each step, averaged over devices; in mode "implicit"
            with the proximal term; in mode "rank_one" the one at theta.
        inner_aux: auxiliary outputs of the inner loss with a leading axis K, of this device.
        outer_aux: auxiliary output of the outer loss, of this device.
        inner: the adapted parameters, on request (`keep_inner`).
        opt_state: the inner optimiser's state after the last step, on request (`keep_inner`).
        auxiliary: psi'.
        auxiliary_losses: (J,) auxiliary loss before each of its J steps.
        solution: diagnostics of mode "implicit".
    """

    inner_losses: Float[Array, " k"]
    inner_aux: PyTree
    outer_aux: PyTree
    inner: PyTree
    opt_state: PyTree
    auxiliary: PyTree
    auxiliary_losses: Float[Array, " j"] | None
    solution: Solution | None


def check(
    *,
    steps: int = 1,
    mode: str = "unrolled",
    difference: float = 0.01,
    solver: Solver | None = None,
    rank_one: RankOne | None = None,
    batch_per_step: bool = False,
    auxiliary: Auxiliary | None = None,
    inner_has_aux: bool = False,
) -> None:
    """Checks settings of `meta_gradient` before there are losses to build it from.

    Args:
        steps: K, at least 1; 1 for the two mixed modes and "rank_one".
        mode: one of `MODES`.
        difference: of mode "mixed_difference", above 0.
        solver: for mode "implicit", which needs one, and for no other mode.
        rank_one: for mode "rank_one", and for no other mode.
        batch_per_step: whether each step has a batch of its own; not for mode "implicit".
        auxiliary: parameters fitted for the outer loss.
        inner_has_aux: whether the inner loss returns `(scalar, aux)`.

    Raises:
        InputError: a setting out of its range, or two that contradict each other.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")
    if (mode.startswith("mixed") or mode == "rank_one") and steps != 1:
        raise InputError(f"mode {mode!r} is for steps=1, got {steps}; take mode 'unrolled'.")
    if not difference > 0:
        raise InputError(f"difference must be above 0, got {difference}.")
    if mode == "implicit" and solver is None:
        raise InputError("mode 'implicit' needs solver=Solver(damping=...).")
    if mode != "implicit" and solver is not None:
        raise InputError(f"solver belongs to mode 'implicit', not to {mode!r}; leave it out.")
    if mode != "rank_one" and rank_one is not None:
        raise InputError(f"rank_one belongs to mode 'rank_one', not to {mode!r}; leave it out.")
    if mode == "implicit" and batch_per_step:
        raise InputError("mode 'implicit' needs one inner batch; leave batch_per_step off.")
    if auxiliary is not None and auxiliary.from_aux and (batch_per_step or not inner_has_aux):
        raise InputError("Auxiliary's from_aux needs inner_has_aux, and one batch for all steps.")


def meta_gradient(
    inner_loss: Loss,
    outer_loss: Loss,
    *,
    optimiser: optax.GradientTransformation,
    steps: int = 1,
    mode: str = "unrolled",
    trainable: Trainable = None,
    propose: Callable[[PyTree, PyTree], PyTree] | None = None,
    auxiliary: Auxiliary | None = None,
    batch_per_step: bool = False,
    difference: float = 0.01,
    solver: Solver | None = None,
    rank_one: RankOne | None = None,
    axis_name: str | None = None,
    inner_has_aux: bool = False,
    outer_has_aux: bool = False,
    keep_inner: bool = False,
) -> Callable[..., tuple[Scalar, PyTree, MetaAux]]:
    """Builds the function that returns the outer loss and its gradient to the outer parameters.

    Modes (u is the gradient of the outer loss to the adapted parameters, v its pull-back through
    the optimiser's update to the inner gradient; v = -rate u for SGD):

    - "unrolled": exact for any K; steps are rematerialised, so memory grows with K by one copy of
      the inner parameters and optimiser state a step, not by activations.
    - "mixed_product": exact for K = 1, without a graph of the adapted parameters:
      ``d/dphi <d/dtheta L_in(theta, phi), v>``.
    - "mixed_difference": K = 1, the same product by a central difference, with the memory of
      first-order gradients; an approximation whose error shrinks with `difference` squared.
    - "implicit": K steps without a graph, then the implicit function theorem at the point
      reached, which it takes to be stationary: ``-d/dphi <d/dtheta L_in, z>`` with z from
      `Solver`. Check `MetaAux.solution`.
    - "rank_one": no inner step; the implicit gradient at theta with curvatures of rank one, see
      `RankOne`. The cost is that of first-order gradients; it is an approximation of unknown error.

    All modes add the direct gradient of the outer loss to phi, if there is one.

    Args:
        inner_loss: `(inner, outer, batch) -> scalar`; with `propose`, `(inner, context, batch)`.
        outer_loss: `(inner, outer, batch) -> scalar`; with `auxiliary`, called with psi' as a
            fourth argument.
        optimiser: inner Optax transformation, of gradients alone (`optax.lbfgs` and others that
            need the loss's value are refused). It sees the trained parameters alone. Mode
            "rank_one" takes no step by it.
        steps: K, at least 1.
        mode: one of `MODES`.
        trainable: which inner parameters the inner steps change; see `partition`.
        propose: `(outer, batch) -> context`, the part of the inner loss that depends on phi and
            the batch but not on theta (ReFusion: weight maps). Computed once a batch, not once a
            step, and differentiated once.
        auxiliary: parameters fitted for the outer loss.
        batch_per_step: the inner training batch has a leading axis K, one batch a step (auxiliary
            step j takes batch j modulo K); otherwise all steps share one batch.
        difference: distance |theta_moved - theta| of "mixed_difference", above 0.
        solver: of "implicit", which needs one.
        rank_one: of "rank_one"; None for the derived form.
        axis_name: mapped axis over which inner and auxiliary gradients are averaged before each
            update, then the outer value and gradient. Losses must be means over their batch.
        inner_has_aux: the inner loss returns `(scalar, aux)`.
        outer_has_aux: the outer loss returns `(scalar, aux)`.
        keep_inner: put the adapted parameters and the optimiser's state into the result.

    Returns:
        A pure function `(outer, inner, train_batch, test_batch, *, opt_state=None, psi=None) ->
        (value, gradient, MetaAux)`. `inner` itself is not changed. `opt_state` defaults to a fresh
        one, `optimiser.init(partition(inner, trainable)[0])`; psi are the auxiliary parameters.

    Raises:
        InputError: an unknown mode, or settings that contradict each other; and, when the
            function is called, a subset that selects nothing, batches that do not fit `steps`, or
            an optimiser that needs more than gradients, or whose derivative is not finite where
            they are 0.
    """
    check(
        steps=steps,
        mode=mode,
        difference=difference,
        solver=solver,
        rank_one=rank_one,
        batch_per_step=batch_per_step,
        auxiliary=auxiliary,
        inner_has_aux=inner_has_aux,
    )
    settings = Settings(
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        optimiser=optimiser,
        steps=steps,
        trainable=trainable,
        propose=propose,
        auxiliary=auxiliary,
        batch_per_step=batch_per_step,
        axis_name=axis_name,
        inner_has_aux=inner_has_aux,
        outer_has_aux=outer_has_aux,
    )
    differentiate = _method(mode, difference, solver, rank_one)
    tried: set[str] = set()  # shapes of theta for which the optimiser is known to do

    def run(
        outer: PyTree,
        inner: PyTree,
        train_batch: PyTree,
        test_batch: PyTree,
        *,
        opt_state: PyTree = None,
        psi: PyTree = None,
    ) -> tuple[Scalar, PyTree, MetaAux]:
        problem = prepare(settings, inner, train_batch, test_batch, opt_state, psi)
        shapes = str(jax.tree.map(lambda x: (x.shape, x.dtype), problem.theta))
        if mode != "rank_one" and shapes not in tried:
            require_gradients_alone(optimiser, problem.theta)
            if mode != "implicit":
                require_finite_derivative(optimiser, problem.theta)
            tried.add(shapes)
        value, gradient, record = differentiate(problem, outer)
        value, gradient = problem.descent.mean((value, gradient))
        return value, gradient, _meta_aux(problem, record, keep_inner)

    return run


# ---- the modes -----------------------------------------------------------------------------------


class _Record(NamedTuple):
    """What a mode computed on the way to its gradient; names as in `MetaAux`.

    Attributes:
        theta: the adapted parameters.
        state: the inner optimiser's state after the last step.
        inner_losses: (K,) before each step.
        inner_aux: with a leading axis K.
        outer_aux: of the outer loss.
        auxiliary: psi'.
        auxiliary_losses: (J,) before each of its steps.
        solution: of mode "implicit".
    """

    theta: PyTree
    state: PyTree
    inner_losses: Float[Array, " k"]
    inner_aux: PyTree
    outer_aux: PyTree
    auxiliary: PyTree
    auxiliary_losses: Float[Array, " j"] | None
    solution: Solution | None = None


Method = Callable[[Problem, PyTree], tuple[Scalar, PyTree, _Record]]


def _method(
    mode: str, difference: float, solver: Solver | None, rank_one: RankOne | None
) -> Method:
    """The function of a mode, with the options of that mode."""
    if mode == "unrolled":
        return _unrolled
    if mode == "rank_one":
        return functools.partial(_rank_one, form=rank_one or RankOne())
    if solver is not None:  # `check` has seen that this is mode "implicit", and no other
        return functools.partial(_implicit, solver=solver)
    return functools.partial(_mixed, difference=difference if mode == "mixed_difference" else None)


def _unrolled(problem: Problem, outer: PyTree) -> tuple[Scalar, PyTree, _Record]:
    """Differentiates the outer loss through all inner steps.

    Returns:
        This device's outer loss and gradient to `outer`, and the record.
    """
    batches = problem.batches

    def objective(outer: PyTree) -> tuple[Scalar, _Record]:
        shared = None
        if batches.per_step is None:  # one batch has one context, whatever the step
            shared = problem.context(outer, batches.shared)

        def context_at(batch: PyTree) -> PyTree:
            return shared if batches.per_step is None else problem.context(outer, batch)

        (theta, state), (losses, inner_aux) = problem.descent.run(
            problem.theta, problem.state, context_at, batches, problem.settings.steps
        )
        psi, psi_losses = problem.fit_auxiliary(inner_aux)
        value, outer_aux = problem.outer_loss(theta, outer, psi)
        return value, _Record(theta, state, losses, inner_aux, outer_aux, psi, psi_losses)

    (value, record), gradient = jax.value_and_grad(objective, has_aux=True)(outer)
    return value, gradient, record


def _mixed(
    problem: Problem, outer: PyTree, *, difference: float | None
) -> tuple[Scalar, PyTree, _Record]:
    """One inner step, and a mixed second derivative times a vector.

    Args:
        problem: with one inner step.
        outer: phi.
        difference: distance of the central difference; None for the exact product.

    Returns:
        This device's outer loss and gradient to `outer`, and the record.
    """
    descent, batch = problem.descent, problem.batches.shared
    theta, state = problem.theta, problem.state
    context, pull_context = jax.vjp(lambda outer: problem.context(outer, batch), outer)
    # One pass forward and back serves the step and, pulled on later, the product.
    slope, pull_slope, (loss, aux) = descent.gradient_of_context(theta, context, batch)
    adapted, new_state = descent.update(theta, state, slope)
    losses, inner_aux = jax.tree.map(lambda x: jnp.asarray(x)[None], (loss, aux))
    psi, psi_losses = problem.fit_auxiliary(inner_aux)
    (value, outer_aux), u, direct = _outer_gradients(problem, adapted, outer, psi)
    _, pull_update = jax.vjp(lambda g: descent.update(theta, state, g)[0], slope)
    (v,) = pull_update(u)
    if difference is None:
        (through,) = pull_slope(v)
    else:
        through = descent.difference(theta, context, batch, v, difference)
    gradient = jax.tree.map(jnp.add, direct, pull_context(through)[0])
    record = _Record(adapted, new_state, losses, inner_aux, outer_aux, psi, psi_losses)
    return value, gradient, record


def _implicit(problem: Problem, outer: PyTree, *, solver: Solver) -> tuple[Scalar, PyTree, _Record]:
    """Inner steps without a graph, then the implicit function theorem where they end.

    Args:
        problem: with one batch for all inner steps.
        outer: phi.
        solver: of the linear system with the inner Hessian.

    Returns:
        This device's outer loss and gradient to `outer`, and the record.
    """
    batch = problem.batches.shared
    context, pull_context = jax.vjp(lambda outer: problem.context(outer, batch), outer)
    damped = proximal(problem.inner_loss, problem.theta, solver.damping)
    descent = dataclasses.replace(problem.descent, loss=damped)
    (theta, state), (losses, inner_aux) = descent.run(
        problem.theta, problem.state, lambda batch: context, problem.batches, problem.settings.steps
    )
    psi, psi_losses = problem.fit_auxiliary(inner_aux)
    (value, outer_aux), u, direct = _outer_gradients(problem, theta, outer, psi)
    z, solution = solve(descent, theta, context, batch, u, solver, start=problem.theta)
    minus_z = jax.tree.map(jnp.negative, z)
    _, pull_slope, _ = descent.gradient_of_context(theta, context, batch)
    (through,) = pull_slope(minus_z)
    gradient = jax.tree.map(jnp.add, direct, pull_context(through)[0])
    record = _Record(theta, state, losses, inner_aux, outer_aux, psi, psi_losses, solution)
    return value, gradient, record


def _rank_one(problem: Problem, outer: PyTree, *, form: RankOne) -> tuple[Scalar, PyTree, _Record]:
    """Gradients of both losses at theta, and what `RankOne` makes of them.

    Args:
        problem: of which no inner step is taken.
        outer: phi.
        form: sign and scale of the second term.

    Returns:
        This device's outer loss and gradient to `outer`, and the record.
    """
    theta, batch = problem.theta, problem.batches.shared
    context, pull_context = jax.vjp(lambda outer: problem.context(outer, batch), outer)
    value_and_slopes = jax.value_and_grad(problem.inner_loss, (0, 1), has_aux=True)
    (loss, aux), (slope, of_context) = value_and_slopes(theta, context, batch)
    slope, loss = problem.descent.mean((slope, loss))
    losses, inner_aux = jax.tree.map(lambda x: jnp.asarray(x)[None], (loss, aux))
    psi, psi_losses = problem.fit_auxiliary(inner_aux)
    (value, outer_aux), u, direct = _outer_gradients(problem, theta, outer, psi)
    (indirect,) = pull_context(of_context)
    gradient = form.combine(direct, indirect, form.ratio(u, slope))
    record = _Record(theta, problem.state, losses, inner_aux, outer_aux, psi, psi_losses)
    return value, gradient, record


def _outer_gradients(
    problem: Problem, theta: PyTree, outer: PyTree, psi: PyTree
) -> tuple[tuple[Scalar, PyTree], PyTree, PyTree]:
    """(outer loss, its aux), its gradient u to theta, averaged, and this device's to phi."""
    value_and_gradients = jax.value_and_grad(problem.outer_loss, (0, 1), has_aux=True)
    (value, aux), (u, direct) = value_and_gradients(theta, outer, psi)
    return (value, aux), problem.descent.mean(u), direct


def _meta_aux(problem: Problem, record: _Record, keep_inner: bool) -> MetaAux:
    """The record as the caller gets it."""
    return MetaAux(
        inner_losses=record.inner_losses,
        inner_aux=record.inner_aux,
        outer_aux=record.outer_aux,
        inner=combine(record.theta, problem.frozen) if keep_inner else None,
        opt_state=record.state if keep_inner else None,
        auxiliary=record.auxiliary,
        auxiliary_losses=record.auxiliary_losses,
        solution=record.solution,
    )
