"""Descent on a loss by an Optax transformation, and the derivatives that meta-gradients need of it.

Theta is what descends. The context is what else the loss depends on besides its batch: phi itself,
or what was computed from phi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mgdn_jax.bilevel.subsets import PyTree
from mgdn_jax.errors import InputError

Scalar = Float[Array, ""]
Loss = Callable[..., Any]


class Batches(NamedTuple):
    """The batches of a descent: one that all steps share, or one for each step.

    Attributes:
        shared: the batch of all steps; None if there is one for each step.
        per_step: the batches of all steps, stacked along a leading axis K; None if one is shared.
    """

    shared: PyTree
    per_step: PyTree


@dataclass(frozen=True, eq=False)
class Descent:
    """A loss and the Optax transformation that descends on it.

    Gradients are averaged over `axis_name` before the optimiser sees them, so that every device
    takes the step that one device would take on the whole batch.

    Attributes:
        loss: `(theta, context, batch) -> (scalar, aux)`.
        optimiser: Optax transformation of the gradient to theta.
        axis_name: mapped axis of the devices; None on one device.
    """

    loss: Loss
    optimiser: optax.GradientTransformation
    axis_name: str | None

    def mean(self, tree: PyTree) -> PyTree:
        """Averages over the devices."""
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

    def gradient(
        self, theta: PyTree, context: PyTree, batch: PyTree
    ) -> tuple[PyTree, Scalar, PyTree]:
        """The gradient to theta and the loss, both averaged, and the aux of this device."""
        (loss, aux), gradient = jax.value_and_grad(self.loss, has_aux=True)(theta, context, batch)
        gradient, loss = self.mean((gradient, loss))
        return gradient, loss, aux

    def update(self, theta: PyTree, state: PyTree, gradient: PyTree) -> tuple[PyTree, PyTree]:
        """One step of the optimiser: the new theta and the optimiser's new state."""
        updates, state = self.optimiser.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state

    def run(
        self,
        theta: PyTree,
        state: PyTree,
        context_at: Callable[[PyTree], PyTree],
        batches: Batches,
        steps: int,
    ) -> tuple[tuple[PyTree, PyTree], tuple[Float[Array, " k"], PyTree]]:
        """Takes `steps` steps.

        Each step is rematerialised: its backward pass keeps theta and the optimiser's state alone
        and computes everything else again, one step at a time.

        Args:
            theta: where the descent starts.
            state: the optimiser's state there.
            context_at: `batch -> context` of a step.
            batches: of all steps.
            steps: K.

        Returns:
            `(theta, state)` after the last step, and `(losses, aux)` before each step, both with a
            leading axis K.
        """

        def step(carry: PyTree, step_batch: PyTree) -> tuple[PyTree, PyTree]:
            theta, state = carry
            batch = batches.shared if batches.per_step is None else step_batch
            gradient, loss, aux = self.gradient(theta, context_at(batch), batch)
            return self.update(theta, state, gradient), (loss, aux)

        # Inside a scan nothing can be merged across iterations, so the barrier is not needed.
        step = jax.checkpoint(step, prevent_cse=False)
        return lax.scan(step, (theta, state), batches.per_step, length=steps)

    def gradient_of_context(
        self, theta: PyTree, context: PyTree, batch: PyTree
    ) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree]], tuple[Scalar, PyTree]]:
        """`gradient` as a function of the context: its value, its pull-back and (loss, aux).

        The pull-back of v is this device's ``d/dcontext <d/dtheta loss(theta, context), v>``.
        """

        def slope(context: PyTree) -> tuple[PyTree, tuple[Scalar, PyTree]]:
            outputs, gradient = jax.value_and_grad(self.loss, has_aux=True)(theta, context, batch)
            return gradient, outputs

        gradient, pull, (loss, aux) = jax.vjp(slope, context, has_aux=True)
        gradient, loss = self.mean((gradient, loss))
        return gradient, pull, (loss, aux)

    def hessian(self, theta: PyTree, context: PyTree, batch: PyTree, v: PyTree) -> PyTree:
        """This device's product of the Hessian to theta with v."""
        slope = jax.grad(lambda t: self.loss(t, context, batch)[0])
        return jax.grad(lambda t: optax.tree.vdot(slope(t), v))(theta)

    def difference(
        self, theta: PyTree, context: PyTree, batch: PyTree, v: PyTree, size: float
    ) -> PyTree:
        """The pull-back of v in `gradient_of_context`, by a central difference.

        It takes two first-order gradients to the context, at a distance `size` either side of
        theta along v.
        """
        norm = optax.tree.norm(v)
        e = size / jnp.where(norm > 0, norm, 1)

        def side(signed: Array) -> PyTree:
            moved = jax.tree.map(lambda t, d: (t + signed * d).astype(t.dtype), theta, v)
            return jax.grad(lambda c: self.loss(moved, c, batch)[0])(context)

        # A loop, so that only one side's activations exist at a time.
        both = lax.map(side, jnp.stack([e, -e]))
        return jax.tree.map(lambda g: ((g[0] - g[1]) / (2 * e)).astype(g.dtype), both)


def require_gradients_alone(
    optimiser: optax.GradientTransformation, theta: PyTree, *, whose: str = "inner"
) -> None:
    """Tries the optimiser on gradients alone, which is all that inner steps have.

    Line searches (`optax.lbfgs`), Polyak's steps and schedules on plateaus ask for the loss's value
    or for the loss itself.

    Args:
        optimiser: the transformation under trial; nothing is computed.
        theta: parameters in the shapes that it will be used on.
        whose: what the message calls it.

    Raises:
        InputError: it asks for more.
    """
    try:
        state = jax.eval_shape(optimiser.init, theta)
        jax.eval_shape(lambda g, s: optimiser.update(g, s, theta), theta, state)
    except TypeError as error:
        raise InputError(
            f"the {whose} optimiser asks for more than a gradient, as line searches do"
            f" (optax.lbfgs, optax.polyak_sgd): {error}; take one that steps by gradients, e.g."
            " optax.sgd(rate)."
        ) from None


def require_finite_derivative(optimiser: optax.GradientTransformation, theta: PyTree) -> None:
    """Tries the optimiser's derivative where single entries of the gradient are exactly 0.

    Such entries are common (dead units), and Adam's sqrt(v) has an infinite slope at v = 0, which
    would end as NaN in the meta-gradient. The trial gradient has a 1 as the first entry of every
    leaf and 0 elsewhere.

    Args:
        optimiser: the transformation under trial.
        theta: parameters in the shapes that it will be used on; their values do not matter.

    Raises:
        InputError: some entry of the derivative is not finite.
    """

    def finite(theta: PyTree, gradient: PyTree) -> Array:
        state = optimiser.init(theta)
        _, pull = jax.vjp(lambda g: optimiser.update(g, state, theta)[0], gradient)
        (slope,) = pull(theta)
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(s)) for s in jax.tree.leaves(slope)]))

    with jax.ensure_compile_time_eval():
        ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), theta)
        spikes = jax.tree.map(lambda x: (jnp.arange(x.size) == 0).reshape(x.shape) * x, ones)
        if not bool(jax.jit(finite)(ones, spikes)):
            raise InputError(
                "the inner optimiser has no finite derivative where an entry of the gradient is 0; "
                "give Adam and its kin a small eps_root, e.g. optax.adam(rate, eps_root=1e-16)."
            )
