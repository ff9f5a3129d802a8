"""Finds wrong labels: learns a weight for every training example through the training itself.

A linear classifier is trained on labels of which some are flipped; a few clean examples judge it.
The gradient of that judgement to the weights, through the training steps, lowers the weights of
the flipped examples: nobody says which they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgdn_jax import bilevel


def losses(theta, batch):
    """Logistic loss of every example."""
    x, y = batch
    return optax.sigmoid_binary_cross_entropy(x @ theta["w"] + theta["b"], y)


def inner_loss(theta, logits, batch):
    """Training loss, examples weighed by sigmoid(logits)."""
    weights = jax.nn.sigmoid(logits)
    return jnp.sum(weights * losses(theta, batch)) / jnp.sum(weights)


def outer_loss(theta, logits, batch):
    """Plain mean over the clean examples; says how many are right, too."""
    x, y = batch
    right = jnp.mean(((x @ theta["w"] + theta["b"]) > 0) == (y > 0.5))
    return jnp.mean(losses(theta, batch)), right


def main(
    examples: int = 200, flipped: float = 0.4, steps: int = 10, updates: int = 60, seed: int = 0
) -> dict[str, float]:
    """Returns mean weights of clean and flipped examples, and test accuracy before and after."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=8)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(n, 8)).astype(np.float32)
        return x, (x @ truth > 0).astype(np.float32)

    (x, y), clean, test = draw(examples), draw(40), draw(1000)
    wrong = (rng.random(examples) < flipped) & (x[:, 0] > 0)  # mistakes with a bias
    train = x, np.where(wrong, 1 - y, y)

    theta = {"w": jnp.zeros(8), "b": jnp.zeros(())}
    meta = jax.jit(
        bilevel.meta_gradient(
            inner_loss, outer_loss, optimiser=optax.sgd(1.0), steps=steps, outer_has_aux=True,
            keep_inner=True,
        )
    )  # fmt: skip
    outer = optax.adam(0.3)
    logits = jnp.zeros(examples)
    state = outer.init(logits)
    accuracy = []
    for _ in range(updates):
        _, gradient, aux = meta(logits, theta, train, clean)
        accuracy.append(float(outer_loss(aux.inner, logits, test)[1]))
        change, state = outer.update(gradient, state)
        logits = optax.apply_updates(logits, change)
    weights = np.asarray(jax.nn.sigmoid(logits))
    result = {
        "weight_clean": float(weights[~wrong].mean()),
        "weight_flipped": float(weights[wrong].mean()),
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[-1],
    }
    print({name: round(value, 3) for name, value in result.items()})
    return result


if __name__ == "__main__":
    main()
