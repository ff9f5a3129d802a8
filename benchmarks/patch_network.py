"""A small network that says what a patch shows, and its training: NNX, Optax, a few seconds.

What is drawn at random (first weights beyond the first layer, order of patches, flips, shifts,
contrast) depends on the seed alone, so that networks of several inputs differ by their inputs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mgdn_jax.layers.conv import Conv2d, Linear
from mgdn_jax.layers.functional import Flat, abstract, apply, split

BATCH = 64
_SHIFT = 4
_CONTRAST, _BRIGHTNESS = 0.2, 0.1


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: passes through the training patches.
        rate: Adam's largest step, reached after a twentieth of the run; then half a cosine.
        decay: weight decay.
        width: features of the first layer; the others have twice and three times as many.
    """

    epochs: int = 80
    rate: float = 1e-2
    decay: float = 1e-2
    width: int = 8


class PatchNetwork(nnx.Module):
    """Blocks of 2x2 pixels; three 3x3 convolutions, maxima over 2x2 between; mean; linear layer."""

    def __init__(self, channels: int, classes: int, width: int, *, rngs: nnx.Rngs):
        # The last ones first: what is drawn for them does not depend on the input's channels.
        self.head = Linear(3 * width, classes, rngs=rngs)
        self.third = Conv2d(2 * width, 3 * width, 3, rngs=rngs)
        self.second = Conv2d(width, 2 * width, 3, rngs=rngs)
        self.first = Conv2d(4 * channels, width, 3, rngs=rngs)
        for layer in (self.first, self.second, self.third):
            # He's deviation: with PyTorch's, six times less variance passes each layer.
            layer.kernel[...] = math.sqrt(6) * layer.kernel[...]
            layer.bias[...] = jnp.zeros_like(layer.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits (B, classes) of standardised patches (B, H, W, channels)."""
        b, h, w, c = x.shape
        x = jnp.moveaxis(_blocks(x), 2, 3).reshape(b, h // 2, w // 2, 4 * c)
        x = _blocks(nnx.relu(self.first(x))).max((2, 4))
        x = _blocks(nnx.relu(self.second(x))).max((2, 4))
        return self.head(nnx.relu(self.third(x)).mean((1, 2)))


def _blocks(x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, 2, W/2, 2, C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


@dataclass(frozen=True)
class Trained:
    """A network after its training.

    Attributes:
        params: its parameters.
        mean, deviation: of each channel of the training patches.
        width: as in `Schedule`.
    """

    params: Flat
    mean: np.ndarray
    deviation: np.ndarray
    width: int

    @property
    def parameters(self) -> int:
        """Their number."""
        return sum(math.prod(value.shape) for value in self.params.values())

    def classify(self, patches: np.ndarray) -> np.ndarray:
        """The likeliest class of each patch (n, H, W, C) uint8: (n,) integers."""
        classes = self.params["head/bias"].shape[0]
        logits = _programs(patches.shape[-1], classes, self.width)[2]
        likeliest = []
        for start in range(0, len(patches), BATCH):
            part = patches[start : start + BATCH]
            padding = [(0, BATCH - len(part)), (0, 0), (0, 0), (0, 0)]
            x = (np.pad(part, padding) - self.mean) / self.deviation
            likeliest.append(np.asarray(logits(self.params, x)).argmax(1)[: len(part)])
        return np.concatenate(likeliest)


@functools.cache
def _programs(channels: int, classes: int, width: int):
    """A function of a seed to first parameters, a compiled step, and compiled logits."""

    def network(seed: int) -> nnx.Module:
        return PatchNetwork(channels, classes, width, rngs=nnx.Rngs(seed))

    graphdef = abstract(lambda: network(0))[0]

    def start(seed: int) -> Flat:
        return split(network(seed))[1]

    def logits(params: Flat, x: jax.Array) -> jax.Array:
        return apply(graphdef, params, {}, x)[0]

    @jax.jit
    def step(params, moments, x, labels, weights, rate, decay):
        def loss(params):
            each = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels)
            return jnp.sum(weights * each) / jnp.sum(weights)

        optimiser = optax.adamw(rate, weight_decay=decay)
        gradient = jax.grad(loss)(params)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    return start, step, jax.jit(logits)


def prepare(channels: int, classes: int, width: int) -> None:
    """Makes the programs of a kind of network, which threads would make several times."""
    _programs(channels, classes, width)


def train(patches: np.ndarray, labels: np.ndarray, seed: int, schedule: Schedule) -> Trained:
    """Trains a network; every class counts alike, however many patches it has.

    Args:
        patches: (n, SIDE, SIDE, C) uint8.
        labels: (n,) integers from 0; each class occurs.
        seed: of all that is drawn at random.
        schedule: how.
    """
    count, channels, classes = len(labels), patches.shape[-1], int(labels.max()) + 1
    start, step, _ = _programs(channels, classes, schedule.width)
    params = start(seed)
    moments = optax.adamw(schedule.rate).init(params)
    mean = patches.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    deviation = patches.std((0, 1, 2), dtype=np.float64).astype(np.float32) + np.float32(1)
    weights = (count / classes / np.bincount(labels)).astype(np.float32)[labels]
    rng = np.random.default_rng(seed)
    per_epoch = -(-count // BATCH)
    total, done = schedule.epochs * per_epoch, 0
    for _ in range(schedule.epochs):
        order = rng.permutation(count)
        # The last batch of a pass is filled up from its start: one shape, one program.
        order = np.resize(order, per_epoch * BATCH)
        for part in order.reshape(per_epoch, BATCH):
            x = (_augmented(patches[part], rng) - mean) / deviation
            warm = min(1.0, (done + 1) / (total / 20))
            rate = schedule.rate * warm * 0.5 * (1 + math.cos(math.pi * done / total))
            params, moments = step(
                params, moments, x, labels[part], weights[part], rate, schedule.decay
            )
            done += 1
    return Trained(params, mean, deviation, schedule.width)


def _augmented(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches mirrored, shifted by up to 4 pixels, and of other contrast and brightness; float32.

    All channels of a patch are treated alike.
    """
    count, height, width, _ = patches.shape
    edges = [(0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)]
    padded = np.pad(patches, edges, mode="edge")
    down, right = rng.integers(0, 2 * _SHIFT + 1, (2, count))
    mirrored = rng.random(count) < 0.5
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    columns[mirrored] = columns[mirrored, ::-1]
    x = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    gain = 1 + _CONTRAST * rng.uniform(-1, 1, (count, 1, 1, 1))
    offset = 255 * _BRIGHTNESS * rng.uniform(-1, 1, (count, 1, 1, 1))
    return (x * gain + offset).astype(np.float32)
