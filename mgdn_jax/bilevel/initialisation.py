"""Gradients of a starting point: meta-initialisation of one task.

From a start phi, K steps on a task's support batch lead to theta, which the task's query batch
judges. Average the gradients over tasks, and descend on phi by any optimiser:

- "exact" (MAML, arXiv 1703.03400): ``d/dphi L(theta_K(phi); query)``, through all steps;
- "first_order": ``dL/dtheta (theta_K; query)``, as if the steps were a shift. Other than for a loss
  that is learned it has a meaning, for phi itself is what is shifted;
- "reptile" (arXiv 1803.02999): ``phi - theta_K``, no gradient, and no query batch is looked at but
  for the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mgdn_jax.bilevel.descent import Batches, Descent, Loss, Scalar, require_gradients_alone
from mgdn_jax.bilevel.gradient import meta_gradient
from mgdn_jax.bilevel.subsets import PyTree
from mgdn_jax.errors import InputError

INITIALISATIONS = ("exact", "first_order", "reptile")


class InitialisationAux(NamedTuple):
    """What comes with the gradient of a starting point.

    Attributes:
        inner_losses: (K,) loss of the support batch before each step, averaged over devices.
        inner_aux: auxiliary outputs of the loss with a leading axis K, of this device.
        outer_aux: auxiliary output of the loss on the query batch, of this device.
    """

    inner_losses: Float[Array, " k"]
    inner_aux: PyTree
    outer_aux: PyTree


def initialisation_gradient(
    loss: Loss,
    *,
    optimiser: optax.GradientTransformation,
    steps: int = 1,
    mode: str = "exact",
    axis_name: str | None = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Scalar, PyTree, InitialisationAux]]:
    """Builds the function that returns a task's loss after adaptation, and its gradient.

    Args:
        loss: ``(parameters, batch) -> scalar``, a mean over the batch; with `has_aux`, ``(scalar,
            aux)``.
        optimiser: of the adaptation, one of gradients alone. In mode "exact" it
            moves a displacement from phi, so that one that looks at parameters (weight decay) sees
            that.
        steps: K, at least 1.
        mode: one of `INITIALISATIONS`.
        axis_name: mapped axis over which gradients and values are averaged.
        has_aux: the loss returns an auxiliary output.

    Returns:
        A pure function ``(start, support, query, *, opt_state=None) -> (value, gradient,
        InitialisationAux)``: the query batch's loss at the adapted parameters, and what to descend
        on, in the start's structure. `opt_state` defaults to a fresh one.

    Raises:
        InputError: an unknown mode or no step; and, when the function is called, an optimiser that
            needs more than gradients.
    """
    if mode not in INITIALISATIONS:
        raise InputError(
            f"unknown initialisation {mode!r}; choose one of {', '.join(INITIALISATIONS)}."
        )
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")

    def with_aux(theta: PyTree, batch: PyTree) -> tuple[Scalar, PyTree]:
        return loss(theta, batch) if has_aux else (loss(theta, batch), None)

    def displaced(shift: PyTree, start: PyTree, batch: PyTree) -> tuple[Scalar, PyTree]:
        return with_aux(jax.tree.map(jnp.add, start, shift), batch)

    if mode == "exact":
        meta = meta_gradient(
            displaced, displaced, optimiser=optimiser, steps=steps, axis_name=axis_name,
            inner_has_aux=True, outer_has_aux=True,
        )  # fmt: skip

        def exact(
            start: PyTree, support: PyTree, query: PyTree, *, opt_state: PyTree = None
        ) -> tuple[Scalar, PyTree, InitialisationAux]:
            still = jax.tree.map(jnp.zeros_like, start)
            value, gradient, aux = meta(start, still, support, query, opt_state=opt_state)
            found = InitialisationAux(aux.inner_losses, aux.inner_aux, aux.outer_aux)
            return value, gradient, found

        return exact

    descent = Descent(
        lambda theta, _, batch: with_aux(theta, batch), optimiser=optimiser, axis_name=axis_name
    )

    def near(
        start: PyTree, support: PyTree, query: PyTree, *, opt_state: PyTree = None
    ) -> tuple[Scalar, PyTree, InitialisationAux]:
        start = jax.tree.map(jnp.asarray, start)
        require_gradients_alone(optimiser, start)
        state = optimiser.init(start) if opt_state is None else opt_state
        (theta, _), (losses, inner_aux) = descent.run(
            start, state, lambda _: None, Batches(support, None), steps
        )
        if mode == "reptile":
            value, aux = with_aux(theta, query)
            gradient = jax.tree.map(jnp.subtract, start, theta)
            value = descent.mean(value)
        else:
            gradient, value, aux = descent.gradient(theta, None, query)
        return value, gradient, InitialisationAux(losses, inner_aux, aux)

    return near
