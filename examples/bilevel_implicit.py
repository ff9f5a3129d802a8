"""Learns a penalty for every feature by implicit differentiation, and looks at every gradient.

A ridge regression of noisy features is fitted by gradient descent; held-out examples judge it. The
gradient of that judgement to the penalties comes from the implicit function theorem, which is right
where the fit has converged and its Hessian is positive definite. Nothing inside a compiled function
can raise, so the loop asks each solution for its fault and stops with that sentence.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import bilevel


class UnsolvedError(RuntimeError):
    """A meta-gradient is worthless; the message says why."""


def error(theta, batch):
    """Half the mean squared error of a linear prediction."""
    x, y = batch
    return 0.5 * jnp.mean((x @ theta - y) ** 2)


def penalties(logits):
    """Penalties between 0 and 3: larger ones would ask for a smaller inner rate."""
    return 3 * jax.nn.sigmoid(logits)


def inner_loss(theta, logits, batch):
    """What the fit minimises: a penalty for every feature."""
    return error(theta, batch) + 0.5 * jnp.sum(penalties(logits) * theta**2)


def outer_loss(theta, logits, batch):
    """What the fit is judged by."""
    del logits
    return error(theta, batch)


def main(
    features: int = 20,
    useful: int = 4,
    steps: int = 200,
    rate: float = 0.2,
    updates: int = 40,
    curvature: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    """Learns the penalties.

    Args:
        features: of every example.
        useful: how many of them the truth depends on.
        steps: inner steps K of the fit.
        rate: of the inner steps.
        updates: of the penalties.
        curvature: subtracted from the penalties, to see what happens where the fit has no minimum.
        seed: of the examples.

    Returns:
        The outer loss before and after, and the mean penalties of useful and useless features.

    Raises:
        UnsolvedError: a meta-gradient is worthless.
    """
    rng = np.random.default_rng(seed)
    truth = np.where(np.arange(features) < useful, 1.0, 0.0)

    def draw(n: int) -> tuple[jax.Array, jax.Array]:
        x = rng.normal(size=(n, features))
        return jnp.asarray(x), jnp.asarray(x @ truth + 0.5 * rng.normal(size=n))

    train, held_out = draw(25), draw(100)

    def curved(theta, logits, batch):
        return inner_loss(theta, logits, batch) - 0.5 * curvature * jnp.sum(theta**2)

    meta = jax.jit(
        bilevel.meta_gradient(
            curved, outer_loss, optimiser=optax.sgd(rate), steps=steps, mode="implicit",
            solver=bilevel.Solver(damping=0.0, tolerance=1e-5), keep_inner=True,
        )
    )  # fmt: skip
    outer = optax.adam(0.2)
    logits, theta = jnp.full(features, -2.0), jnp.zeros(features)
    state = outer.init(logits)
    judged = []
    for update in range(updates):
        value, gradient, aux = meta(logits, theta, train, held_out)
        fault = aux.solution.fault(stationarity=1e-2)
        if fault:
            raise UnsolvedError(f"update {update}: {fault}")
        theta = aux.inner  # the next fit starts where this one ended
        judged.append(float(value))
        change, state = outer.update(gradient, state)
        logits = optax.apply_updates(logits, change)
    result = {
        "outer_before": judged[0],
        "outer_after": judged[-1],
        "penalty_useful": float(penalties(logits[:useful]).mean()),
        "penalty_useless": float(penalties(logits[useful:]).mean()),
    }
    print({name: round(value, 3) for name, value in result.items()})
    return result


if __name__ == "__main__":
    try:
        main()
    except UnsolvedError as reason:
        sys.exit(f"error: {reason}")
