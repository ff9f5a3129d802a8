"""ReFusion's losses against the original: values, gradients, ties, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error

from mgdn_jax import losses
from mgdn_jax.systems.refusion.losses import (
    reconstruction_max,
    reconstruction_max_gradient,
    reconstruction_mse,
    weighted_gradient,
    weighted_intensity,
)

GOLDEN = Golden("refusion_losses")
F, A, B, W, V, R = (GOLDEN.nhwc(f"in:{name}") for name in ("f", "a", "b", "w", "v", "recon"))


def reconstructed(loss):
    return lambda recon: loss(recon[..., :1], recon[..., 1:], A, B)


CASES = {
    "int/f": (lambda f: weighted_intensity(f, A, B, W), F),
    "int/w": (lambda w: weighted_intensity(F, A, B, w), W),
    "grad_magnitude_weighted/f": (lambda f: weighted_gradient(f, A, B, V), F),
    "grad_magnitude_weighted/v": (lambda v: weighted_gradient(F, A, B, v), V),
    "grad_signed_max/f": (lambda f: losses.gradient_signed_max(f, A, B), F),
    "recon_mse/recon": (reconstructed(reconstruction_mse), R),
    "recon_max_int/recon": (reconstructed(reconstruction_max), R),
    "recon_max_grad/recon": (reconstructed(reconstruction_max_gradient), R),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    loss, x = CASES[name]
    both = jax.value_and_grad(lambda x: ((y := loss(x)).mean(), y), has_aux=True)
    (value, each), gradient = jax.jit(both)(x)
    assert each.shape == (2,)
    wanted = float(GOLDEN[f"scalar:{name.split('/')[0]}"])
    error = relative_error(gradient, np.moveaxis(GOLDEN[f"grad:{name}"], 1, -1))
    print(f"{name}: value {abs(float(value) / wanted - 1):.1e}, gradient {error:.1e}")
    assert abs(float(value) / wanted - 1) <= 1e-6
    assert error <= 1e-4


def test_strength_and_its_border():
    strength = jax.jit(losses.sobel_strength)
    assert max_error(strength(A), np.moveaxis(GOLDEN["mid:gradmag_a"], 1, -1)) <= 1e-6
    ones = np.asarray(strength(jnp.ones((1, 5, 6, 1))))
    assert float(ones[0, 2, 2, 0]) == 0.0
    assert float(ones[0, 2, 0, 0]) == 4.0  # black outside
    assert float(ones[0, 0, 0, 0]) == 6.0


def test_ties():
    # Equal distances share the gradient; equal responses of opposite sign take the first source.
    x = jnp.full((1, 3, 3, 1), 0.5)

    def worse(first, second):
        return reconstruction_max(first, second, 0 * x, 0 * x).sum()

    first, second = jax.jit(jax.grad(worse, (0, 1)))(x, x)
    assert np.allclose(first, second)
    assert np.allclose(first, 0.5 / 9)
    ramp = jnp.broadcast_to(jnp.arange(7.0)[None, None, :, None] / 8, (1, 7, 7, 1))
    distance = jax.jit(losses.gradient_signed_max)
    near = distance(ramp, ramp, 1 - ramp)
    far = distance(1 - ramp, ramp, 1 - ramp)
    assert float(near[0]) < 0.5 * float(far[0])


@pytest.mark.unchecked
def test_shapes_never_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        weighted_intensity(F, A, B[:1], W)
    with pytest.raises(ValueError, match="do not fit images"):
        weighted_gradient(F, A, B, V[..., :1])
    with pytest.raises(ValueError, match="shapes differ"):
        reconstruction_max(F, F, A, B[:, :3])
