"""Gradients of a starting point on the golden tasks: exact, first order, Reptile's displacement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import Golden

from mgdn_jax import bilevel
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.tim.network import Config
from mgdn_jax.weights import conversion

CONFIG = Config(features=4, dtype="float64")
TASKS = ("ivif", "mif", "mff")
KINDS = {
    "exact": "grad:exact/",
    "first_order": "grad:first_order/",
    "reptile": "out:reptile_displacement/",
}


@pytest.fixture(scope="module")
def golden():
    return Golden("tim_initialisation")


def converted(entries):
    """(parameters, running statistics) of published entries."""
    state = {f"initial.{key}": value for key, value in entries.items()}
    params, stats, _ = conversion.convert_arrays(state, system="tim", config=CONFIG)
    return params, stats


@pytest.mark.parametrize(
    "mode", ["first_order", "reptile", pytest.param("exact", marks=pytest.mark.long)]
)
@pytest.mark.usefixtures("x64")
def test_gradients_of_the_start(golden, mode):
    like = golden.state()
    params, stats = converted(like)
    start = {path: jnp.asarray(value, jnp.float64) for path, value in params.items()}
    stats = {path: jnp.asarray(value, jnp.float64) for path, value in stats.items()}
    graphdef = registry.graphdef("tim", CONFIG)

    def loss(theta, batch):
        (fused, _), _ = functional.apply(
            graphdef, theta, stats, batch["a"], batch["b"], mode=Mode(training=True)
        )
        gaps = [jnp.mean((fused - batch[name]) ** 2) for name in "ab"]
        return batch["share"] * gaps[0] + (1 - batch["share"]) * gaps[1]

    run = jax.jit(
        bilevel.initialisation_gradient(
            loss, optimiser=optax.sgd(float(golden["scalar:inner_lr"][0])),
            steps=int(golden["scalar:K"][0]), mode=mode,
        )
    )  # fmt: skip
    total = None
    for task, share in zip(TASKS, golden["in:share_of_a"], strict=True):
        support, query = (
            {
                name: jnp.asarray(golden.nhwc(f"in:{task}/{part}/{name}"), jnp.float64)
                for name in "ab"
            }
            | {"share": jnp.asarray(share)}
            for part in ("support", "query")
        )
        value, gradient, aux = run(start, support, query)
        assert abs(float(value - golden[f"out:{task}/query_loss"][0])) <= 1e-10
        np.testing.assert_allclose(aux.inner_losses, golden[f"out:{task}/inner_losses"], rtol=1e-9)
        total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
    prefix = KINDS[mode]
    entries = {k.removeprefix(prefix): v for k, v in golden.arrays.items() if k.startswith(prefix)}
    wanted = exact_layout(entries, like)
    largest = max(np.abs(value).max() for value in wanted.values())
    error = max(np.abs(np.asarray(total[p]) - v).max() for p, v in wanted.items()) / largest
    print(f"{mode}: {error:.1e} of the largest entry")
    assert total.keys() == wanted.keys()
    assert error <= 1e-8


def exact_layout(entries, like):
    """Published float64 entries under our names and in our layout."""
    state = {f"initial.{key}": value for key, value in like.items()}
    _, _, report = conversion.convert_arrays(state, system="tim", config=CONFIG)
    rules = conversion.rules_of("tim")
    wanted = {}
    for key, value in entries.items():
        path = report.converted[f"initial.{key}"]
        (layout,) = [lay for p, lay in conversion._targets(f"initial.{key}", rules) if p == path]
        wanted[path] = layout.ours(value)
    return wanted
