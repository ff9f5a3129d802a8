"""The rule that a network for exposures starts from."""

import jax
import jax.numpy as jnp
import numpy as np

from mgdn_jax.layers import exposures

rule_logits = jax.jit(exposures.rule_logits)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_structure_near_middle_gray_counts():
    texture = noise(1, 24, 24, 3) - np.float32(0.5)
    flat = np.full_like(texture, 0.5)
    pictures = [flat, 0.5 + 0.2 * texture, 0.5 + 0.05 * texture, 0.9 + 0.2 * texture]
    pictures += [0 * flat, 2 * flat]
    logits = np.asarray(rule_logits([jnp.asarray(x, jnp.float32) for x in pictures]))
    assert logits.shape == (1, 24, 24, 6)
    flat, gray, faint, bright, black, white = logits.mean((0, 1, 2))
    assert gray > faint > flat
    assert gray > bright + 0.4
    # White and black have the same place; neither is ruled out.
    assert abs(black - white) < 0.1
    assert logits.min() > -12


def test_structure_is_the_deviation_under_a_gaussian():
    image = noise(1, 24, 24, 3)
    apart = np.abs(np.arange(24) - 12)
    taps = np.where(apart <= 10, np.exp(-(apart**2) / 12.5), 0)
    window = taps[:, None] * taps[None] / np.sum(taps) ** 2
    y = image[0] @ np.array([0.299, 0.587, 0.114])
    deviation = np.sqrt(np.sum(window * y**2) - np.sum(window * y) ** 2)
    wanted = 2 * np.log(deviation + 0.01) + np.log(np.exp(-((y[12, 12] - 0.5) ** 2) / 0.18) + 0.001)
    logits = np.asarray(rule_logits([jnp.asarray(image)] * 6))
    np.testing.assert_allclose(logits[0, 12, 12], wanted, atol=1e-4)


def test_no_gradient_and_nothing_beyond_the_extent():
    image = noise(1, 9, 12, 3)
    pair = [jnp.asarray(image), jnp.asarray(1 - image)]
    grad = jax.jit(jax.grad(lambda x: jnp.sum(exposures.rule_logits([x, x]))))(pair[0])
    assert not np.any(grad)
    grow = ((0, 0), (0, 7), (0, 4), (0, 0))
    padded = [jnp.asarray(np.pad(x, grow, constant_values=np.inf)) for x in pair]
    seen = rule_logits(padded, jnp.asarray([[9, 12]]))
    np.testing.assert_allclose(seen[:, :9, :12], rule_logits(pair), atol=1e-5)
