"""The published search step, and what derives from it, on the golden stand-in network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden import Golden
from test_primitives_tim import ours

from mgdn_jax import bilevel
from mgdn_jax.layers import functional
from mgdn_jax.layers.conv import Conv2d, reflected_conv
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems.tim import conversion
from mgdn_jax.systems.tim.primitives import PReLU
from mgdn_jax.systems.tim.supernet import MixedOperation

NAMES = ("Denseblocks_3_1", "Residualblocks_3_1", "ECAattention_3", "SPAattention_3", "DilConv_3_2")
ROWS = (
    (r"stem\.conv2d", "stem", "conv"),
    (r"act\.weight", "act/slope", "array"),
    (r"out\.conv2d", "out", "conv"),
    *conversion._below(
        r"cells\.(\d)\.ops\.(\d)\._op\.", r"places/\1/operations/\2/", conversion._PRIMITIVE
    ),
)


class StandIn(nnx.Module):
    """The small supernet of the golden file."""

    def __init__(self, rngs):
        self.stem = Conv2d(2, 3, 3, rngs=rngs)
        self.act = PReLU()
        self.places = nnx.List([MixedOperation(NAMES, 3, rngs=rngs) for _ in range(2)])
        self.out = Conv2d(3, 1, 3, rngs=rngs)

    def __call__(self, x, shares):
        mode = Mode(training=True)
        y = self.act(reflected_conv(self.stem, x))
        for place, mixed in enumerate(self.places):
            y = mixed(y, shares[place], mode)
        return reflected_conv(self.out, y)


@pytest.fixture(scope="module")
def golden():
    return Golden("tim_search")


@pytest.fixture(scope="module")
def problem(golden):
    """(loss of (alphas, weights, batch) as bilevel wants it, alphas, weights, both batches)."""
    with jax.enable_x64(True):
        graphdef, params, stats = functional.split(StandIn(nnx.Rngs(0)))
        state = {k: v for k, v in golden.state().items() if k != "alphas" and "running" not in k}
        found = ours(state, ROWS, params)
        theta = {path: jnp.asarray(value, jnp.float64) for path, (_, value) in found.items()}
        latency = jnp.asarray(golden["in:latency"])
        factor = float(golden["scalar:lamda"][0])

        def loss(weights, alphas, batch):
            shares = jax.nn.softmax(alphas, -1)
            fused, _ = functional.apply(graphdef, weights, stats, batch["x"], shares)
            cost = factor * jnp.sum(shares * latency[None])
            return jnp.mean((fused - batch["target"]) ** 2) + cost

        batches = [
            {name: jnp.asarray(golden.nhwc(f"in:{split}/{name}"), jnp.float64)
             for name in ("x", "target")}
            for split in ("train", "valid")
        ]  # fmt: skip
        return loss, jnp.asarray(golden["param:alphas"]), theta, *batches


def gradient(problem, **options):
    loss, alphas, theta, train, valid = problem
    optimiser = optax.sgd(options.pop("rate", 0.01))
    meta = bilevel.meta_gradient(loss, loss, optimiser=optimiser, **options)
    value, found, _ = jax.jit(meta)(alphas, theta, train, valid)
    return float(value), np.asarray(found)


def gap(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def cosine(one, other):
    return float(np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.usefixtures("x64")
def test_both_rank_one_gradients(golden, problem):
    rate = float(golden["scalar:eta"][0])
    first_order = golden["out:first_order/f64"]
    for name, form in (
        ("as_published", bilevel.RankOne.published(rate)),
        ("derived", bilevel.RankOne(epsilon=0.0)),
    ):
        value, found = gradient(problem, mode="rank_one", rank_one=form)
        wanted = golden[f"out:rank_one/{name}/f64"]
        print(f"{name}: {gap(found, wanted):.1e}, cosine to first order "
              f"{cosine(found, first_order):.5f}")  # fmt: skip
        assert gap(found, wanted) <= 1e-8
        assert abs(value - float(golden["out:valid_loss/f64"][0])) <= 1e-9
    assert gap(gradient(problem, mode="rank_one", rank_one=bilevel.RankOne(0.0))[1],
               first_order) <= 1e-8  # fmt: skip


@pytest.mark.usefixtures("x64")
def test_the_first_step_of_adam(golden, problem):
    rate = float(golden["scalar:eta"][0])
    form = bilevel.RankOne.published(rate)
    _, found = gradient(problem, mode="rank_one", rank_one=form)
    alphas = problem[1]
    decay = float(golden["scalar:arch_weight_decay"][0])
    # The release adds the decay to the gradient, as PyTorch's Adam does.
    optimiser = optax.chain(
        optax.add_decayed_weights(decay),
        optax.adam(float(golden["scalar:arch_lr"][0]), b1=0.5, b2=0.999, eps=1e-8),
    )
    change, _ = optimiser.update(jnp.asarray(found), optimiser.init(alphas), alphas)
    wanted = golden["out:alphas_after_step/clean/f64"]
    error = np.abs(np.asarray(alphas + change) - wanted).max()
    print(f"alphas after a step: {error:.1e}")
    assert error <= 1e-8


@pytest.mark.long
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rate", ["0.01", "0.5"])
def test_exact_and_difference(golden, problem, rate):
    wanted = golden[f"out:unrolled_exact/xi={rate}/f64"]
    _, exact = gradient(problem, mode="mixed_product", rate=float(rate))
    _, near = gradient(problem, mode="mixed_difference", rate=float(rate), difference=0.01)
    published = golden[f"out:darts_difference/xi={rate}/f64"]
    print(f"rate {rate}: exact {gap(exact, wanted):.1e}, difference {gap(near, published):.1e},"
          f" its error {gap(near, wanted):.1e}")  # fmt: skip
    assert gap(exact, wanted) <= 1e-8
    assert gap(near, published) <= 1e-7
