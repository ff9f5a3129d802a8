"""A meta-gradient with a known answer: where should a penalty pull parameters to?

The inner problem pulls theta towards phi by K steps of gradient descent; the outer problem wants
theta at a target. With c = (1 - rate)^K the adapted theta is phi + c (theta - phi), so the gradient
is (1 - c) (theta_K - target), and following it ends where theta_K is the target.
"""

import jax
import jax.numpy as jnp
import optax

from mgdn_jax import bilevel


def inner_loss(theta, phi, batch):
    """Half the squared distance to phi; there is no data."""
    return 0.5 * jnp.sum((theta - phi) ** 2)


def outer_loss(theta, phi, target):
    """Half the squared distance to the target."""
    return 0.5 * jnp.sum((theta - target) ** 2)


def main(steps: int = 5, rate: float = 0.3, updates: int = 100) -> tuple[float, float]:
    """Returns the error of the first gradient, and how far theta_K ends from the target."""
    theta, phi, target = jnp.zeros(3), jnp.asarray([0.5, -0.2, 0.1]), jnp.asarray([1.0, 2.0, -1.0])
    meta = jax.jit(
        bilevel.meta_gradient(
            inner_loss, outer_loss, optimiser=optax.sgd(rate), steps=steps, keep_inner=True
        )
    )
    _, gradient, aux = meta(phi, theta, None, target)
    c = (1 - rate) ** steps
    wanted = (1 - c) * (phi + c * (theta - phi) - target)
    error = float(jnp.abs(gradient - wanted).max())
    print(f"meta-gradient {gradient}, by hand {wanted}, difference {error:.1e}")

    outer = optax.sgd(0.5)
    state = outer.init(phi)
    for _ in range(updates):
        _, gradient, aux = meta(phi, theta, None, target)
        change, state = outer.update(gradient, state)
        phi = optax.apply_updates(phi, change)
    distance = float(jnp.abs(aux.inner - target).max())
    print(f"after {updates} outer steps theta_K is {distance:.1e} from the target")
    return error, distance


if __name__ == "__main__":
    main()
