"""The bilevel problem of one call: both losses with all that they depend on, except phi.

Theta are the inner parameters that train, phi the outer parameters. The context is what the inner
loss knows of phi: phi itself, or what `propose` computes from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.bilevel.descent import Batches, Descent, Loss, Scalar, require_gradients_alone
from mgdn_jax.bilevel.subsets import PyTree, Trainable, combine, partition
from mgdn_jax.errors import InputError


@dataclass(frozen=True)
class Auxiliary:
    """A third set of parameters, psi, that the outer loss needs fitted to the inner ones.

    psi' is psi after `steps` updates on ``loss(psi, theta, batch)`` with the *base* theta, the one
    handed in, and the inner training batch. It does not depend on phi, and no gradient flows
    through it.

    Attributes:
        loss: `(psi, inner, batch) -> scalar`.
        optimiser: an Optax transformation; its state is fresh at every call.
        steps: number of updates, at least 0; with 0 psi' is psi.
        from_aux: the loss is `(psi, aux, batch)` instead, with the inner loss's auxiliary outputs
            at the base theta: the images fused, say, which then need not be made twice.

    Raises:
        InputError: `steps` is negative.
    """

    loss: Loss
    optimiser: optax.GradientTransformation
    steps: int = 1
    from_aux: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"Auxiliary needs steps of at least 0, got {self.steps}.")


@dataclass(frozen=True, eq=False)
class Settings:
    """Arguments of `meta_gradient` that state the problem; see there."""

    inner_loss: Loss
    outer_loss: Loss
    optimiser: optax.GradientTransformation
    steps: int
    trainable: Trainable
    propose: Callable[[PyTree, PyTree], PyTree] | None
    auxiliary: Auxiliary | None
    batch_per_step: bool
    axis_name: str | None
    inner_has_aux: bool
    outer_has_aux: bool


@dataclass(frozen=True, eq=False)
class Problem:
    """Both losses with all that they depend on in one call, except phi.

    Attributes:
        settings: what does not change from call to call.
        inner: the base inner parameters, all of them.
        theta: those of them that train.
        frozen: the others.
        state: the inner optimiser's state before the first step.
        batches: inner training batches.
        test_batch: of the outer loss.
        psi: auxiliary parameters before they are fitted.
    """

    settings: Settings
    inner: PyTree
    theta: PyTree
    frozen: PyTree
    state: PyTree
    batches: Batches
    test_batch: PyTree
    psi: PyTree

    @property
    def descent(self) -> Descent:
        """The inner loss with its optimiser."""
        return Descent(self.inner_loss, self.settings.optimiser, self.settings.axis_name)

    def context(self, outer: PyTree, batch: PyTree) -> PyTree:
        """What the inner loss knows of phi at a batch."""
        propose = self.settings.propose
        return outer if propose is None else propose(outer, batch)

    def inner_loss(self, theta: PyTree, context: PyTree, batch: PyTree) -> tuple[Scalar, PyTree]:
        """The inner loss of the trained parameters, and its aux."""
        result = self.settings.inner_loss(combine(theta, self.frozen), context, batch)
        return result if self.settings.inner_has_aux else (result, None)

    def outer_loss(self, theta: PyTree, outer: PyTree, psi: PyTree) -> tuple[Scalar, PyTree]:
        """The outer loss of the adapted parameters, and its aux."""
        extra = () if self.settings.auxiliary is None else (psi,)
        inner = combine(theta, self.frozen)
        result = self.settings.outer_loss(inner, outer, self.test_batch, *extra)
        return result if self.settings.outer_has_aux else (result, None)

    def fit_auxiliary(self, inner_aux: PyTree) -> tuple[PyTree, Float[Array, " j"] | None]:
        """Psi' and the losses on the way to it; `inner_aux` is that of all inner steps."""
        auxiliary = self.settings.auxiliary
        if auxiliary is None:
            return None, None
        context = self.inner
        if auxiliary.from_aux:  # of the first step, which is the one from the base theta
            context = jax.tree.map(lambda x: lax.stop_gradient(x[0]), inner_aux)
        batches = self.batches
        if batches.per_step is not None:
            turns = jnp.arange(auxiliary.steps)
            per_step = jax.tree.map(lambda x: x[turns % x.shape[0]], batches.per_step)
            batches = Batches(None, per_step)
        descent = Descent(
            lambda psi, _, batch: (auxiliary.loss(psi, context, batch), None),
            auxiliary.optimiser,
            self.settings.axis_name,
        )
        require_gradients_alone(auxiliary.optimiser, self.psi, whose="auxiliary")
        state = auxiliary.optimiser.init(self.psi)
        (psi, _), (losses, _) = descent.run(
            self.psi, state, lambda _: None, batches, auxiliary.steps
        )
        return psi, losses


def prepare(
    settings: Settings,
    inner: PyTree,
    train_batch: PyTree,
    test_batch: PyTree,
    opt_state: PyTree,
    psi: PyTree,
) -> Problem:
    """The problem of one call, from its arguments."""
    theta, frozen = partition(inner, settings.trainable)
    theta = jax.tree.map(jnp.asarray, theta)
    state = _initial_state(settings.optimiser, theta, opt_state)
    batches = _batches(train_batch, settings.steps, settings.batch_per_step)
    if (settings.auxiliary is None) != (psi is None):
        raise InputError("psi (parameters) and auxiliary (their problem) go together.")
    return Problem(settings, inner, theta, frozen, state, batches, test_batch, psi)


def _initial_state(
    optimiser: optax.GradientTransformation, theta: PyTree, opt_state: PyTree
) -> PyTree:
    """The optimiser's state handed in, or a fresh one."""
    if opt_state is None:
        return optimiser.init(theta)
    structure: Any = jax.tree.structure(jax.eval_shape(optimiser.init, theta))
    if structure != jax.tree.structure(opt_state):
        raise InputError(
            "opt_state does not belong to the trained inner parameters; start from "
            "optimiser.init(partition(inner, trainable)[0])."
        )
    return opt_state


def _batches(batch: PyTree, steps: int, batch_per_step: bool) -> Batches:
    """The inner training batch as the inner steps take it."""
    if not batch_per_step:
        return Batches(batch, None)
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if lengths != {(steps,)}:
        raise InputError(
            f"batch_per_step: every array of the inner batch needs a leading axis of {steps}, "
            f"one batch a step; found {sorted(n[0] if n else 0 for n in lengths)}."
        )
    if steps == 1:
        return Batches(jax.tree.map(lambda x: x[0], batch), None)
    return Batches(None, batch)
