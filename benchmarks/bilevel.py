"""What a meta-gradient costs: memory and time of every mode, against one inner gradient.

    python benchmarks/bilevel.py [--only rank_one mixed_product] [--rounds 15]

A small convolutional network learns through weight maps that a second one proposes. Memory is the
compiler's count of temporaries; times are the shortest of several runs, as ratios.
"""

import argparse
import itertools
import time

import jax
import jax.numpy as jnp
import optax

from mgdn_jax import bilevel

CHANNELS, SIDE, BATCH = 16, 64, 2


def conv(x, kernel):
    """3x3 convolution that keeps the size."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def net(theta, x):
    """Convolutions with tanh between them."""
    for kernel in theta[:-1]:
        x = jnp.tanh(conv(x, kernel))
    return conv(x, theta[-1])


def propose(phi, batch):
    """Weight maps in (0, 1)."""
    return jax.nn.sigmoid(net(phi, batch))


def inner_loss(theta, weights, batch):
    """Weighted squared distance to the input."""
    return jnp.mean(weights * (net(theta, batch) - batch) ** 2)


def outer_loss(theta, phi, batch):
    """Plain squared distance to the input."""
    return jnp.mean((net(theta, batch) - batch) ** 2)


def plain(steps, phi, theta, train, test):
    """The same by differentiating a Python loop."""

    def objective(phi):
        now, weights = theta, propose(phi, train)
        for _ in range(steps):
            now = optax.tree.add_scale(now, -0.1, jax.grad(inner_loss)(now, weights, train))
        return outer_loss(now, phi, test)

    return jax.value_and_grad(objective)(phi)


def main() -> None:
    """Prints one row a mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="modes, by how their rows begin")
    parser.add_argument("--rounds", type=int, default=15)
    told = parser.parse_args()
    only = tuple(told.only)
    keys = jax.random.split(jax.random.key(0), 4)
    widths = (1, *(CHANNELS,) * 3, 1)

    def kernels(key, widths):
        shapes = [(3, 3, i, o) for i, o in itertools.pairwise(widths)]
        keys = jax.random.split(key, len(shapes))
        return [0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]

    theta, phi = kernels(keys[0], widths), kernels(keys[1], (1, CHANNELS, 1))
    train, test = (jax.random.normal(k, (BATCH, SIDE, SIDE, 1)) for k in keys[2:])

    def gradient(phi, theta, train, test):
        return jax.value_and_grad(inner_loss)(theta, propose(phi, train), train)

    def engine(mode, steps, **options):
        return bilevel.meta_gradient(
            inner_loss, outer_loss, optimiser=optax.sgd(0.1), propose=propose, mode=mode,
            steps=steps, **options,
        )  # fmt: skip

    solver = bilevel.Solver(damping=1.0, iterations=10, tolerance=0.0)
    rows = {
        "one inner gradient": gradient,
        **{f"Python loop, K={k}": lambda *a, k=k: plain(k, *a) for k in (1, 2, 8)},
        **{f"unrolled, K={k}": engine("unrolled", k) for k in (1, 2, 8)},
        "mixed_product, K=1": engine("mixed_product", 1),
        "mixed_difference, K=1": engine("mixed_difference", 1),
        "implicit, K=1, 10 products": engine("implicit", 1, solver=solver),
        "rank_one": engine("rank_one", 1),
    }
    baseline, *names = [name for name in rows if not only or name.startswith((*only, "one "))]
    calls = {
        name: jax.jit(rows[name]).lower(phi, theta, train, test).compile()
        for name in (baseline, *names)
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(told.rounds):  # in turn, so that what else the machine does strikes all
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(phi, theta, train, test))
            seconds[name].append(time.perf_counter() - start)
    figures = {
        name: (call.memory_analysis().temp_size_in_bytes, min(seconds[name]))
        for name, call in calls.items()
    }
    for name, now in figures.items():
        ratios = [value / other for value, other in zip(now, figures[baseline], strict=True)]
        print(f"{name:28} memory x{ratios[0]:5.2f}   time x{ratios[1]:5.1f}")


if __name__ == "__main__":
    main()
