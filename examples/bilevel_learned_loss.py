"""Learns a fusion loss: ReFusion's idea in a hundred lines and a few seconds.

Two pictures of one scene, each noisy in a region of its own. The fusion network sees no clean
picture: it is trained on a weighted distance to its two sources. What the weights should be is
learned from how well the network *so trained* does on other pictures, by the gradient of that
outer loss through the training step. The real thing: mgdn_jax/recipes/refusion.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import bilevel

RATE = 0.5


def features(batch):
    """Both sources and how rough they are around each pixel: (B, H, W, 4)."""

    def rough(x):
        mean = (x + sum(jnp.roll(x, s, axis) for axis in (1, 2) for s in (1, -1))) / 5
        return 10 * jnp.abs(x - mean)

    a, b = batch["a"], batch["b"]
    return jnp.stack([a, b, rough(a), rough(b)], -1)


def network(params, x):
    """Pixelwise network with two outputs that sum to 1."""
    return jax.nn.softmax(jnp.tanh(x @ params["first"]) @ params["last"])


def fuse(theta, batch):
    """Mixes the sources."""
    share = network(theta, features(batch))
    return share[..., 0] * batch["a"] + share[..., 1] * batch["b"]


def propose(phi, batch):
    """Weights of both sources in the loss, from the batch alone."""
    return network(phi, features(batch))


def inner_loss(theta, weights, batch):
    """The learned loss; knows nothing of the clean picture."""
    fused = fuse(theta, batch)
    gaps = jnp.stack([batch["a"] - fused, batch["b"] - fused], -1)
    return jnp.mean(jnp.sum(weights * jnp.square(gaps), -1))


def outer_loss(theta, phi, batch):
    """What the loss is judged by; any differentiable function of the trained network."""
    del phi
    return jnp.mean(jnp.square(fuse(theta, batch) - batch["target"]))


def draw(rng: np.random.Generator, count: int = 4, side: int = 16) -> dict[str, jax.Array]:
    """Smooth scenes, and two sources that are noisy on one side of an edge each."""
    y, x = np.mgrid[:side, :side] / side
    phase = rng.uniform(0, 6, (count, 2, 1, 1))
    target = 0.5 + 0.2 * np.sin(4 * x + phase[:, 0]) + 0.2 * np.cos(3 * y + phase[:, 1])
    left = x[None] < rng.uniform(0.2, 0.8, (count, 1, 1))
    left ^= rng.random((count, 1, 1)) < 0.5
    noise = rng.normal(0, 0.3, (2, *target.shape))
    pair = {"a": target + left * noise[0], "b": target + ~left * noise[1], "target": target}
    return {name: jnp.asarray(value, jnp.float32) for name, value in pair.items()}


def main(steps: int = 300, seed: int = 0) -> dict[str, float]:
    """Outer loss of networks trained under the first (even) and the learned weights."""
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed), 4)
    theta, phi = (
        {
            "first": 0.5 * jax.random.normal(keys[i], (4, 8)),
            "last": 0.1 * jax.random.normal(keys[i + 1], (8, 2)),
        }
        for i in (0, 2)
    )
    meta = bilevel.meta_gradient(
        inner_loss, outer_loss, optimiser=optax.sgd(RATE), propose=propose, mode="mixed_product"
    )
    outer = optax.chain(bilevel.scale_by_max_abs(), optax.scale_by_learning_rate(0.02))

    @jax.jit
    def step(theta, phi, train, test):
        value, gradient, _ = meta(phi, theta, train, test)
        phi = optax.apply_updates(phi, outer.update(gradient, outer.init(phi))[0])
        # Then the network itself, under the weights as they are now.
        slope = jax.grad(inner_loss)(theta, propose(phi, train), train)
        return optax.tree.add_scale(theta, -RATE, slope), phi, value

    values = []
    for _ in range(steps):
        theta, phi, value = step(theta, phi, draw(rng), draw(rng))
        values.append(float(value))
    tenth = max(1, steps // 10)
    result = {
        "outer_before": float(np.mean(values[:tenth])),
        "outer_after": float(np.mean(values[-tenth:])),
    }
    print({name: round(value, 5) for name, value in result.items()})
    assert result["outer_after"] < result["outer_before"]
    return result


if __name__ == "__main__":
    main()
