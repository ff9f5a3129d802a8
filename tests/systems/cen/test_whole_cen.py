"""CEN's segmentation network on the whole fixtures: logits, two steps, names, ResNet 50."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SHARED
from golden import Golden, max_error
from helpers_cen import segmentation_state, shapes

from mgdn_jax.layers import functional
from mgdn_jax.layers.channel_exchange import layers_of_scales, sparsity
from mgdn_jax.systems import registry
from mgdn_jax.systems.cen import losses
from mgdn_jax.systems.cen.segmentation import EXCHANGING, RESNETS, SegmentationConfig
from mgdn_jax.weights import conversion

FOLDER = SHARED / "fixtures" / "cen"
TINY = SegmentationConfig(blocks=(1, 1, 1, 1), classes=5)
NETWORK = {"system": "cen", "network": "Segmentation"}
OUTPUTS = ("rgb", "depth", "ensemble")


@pytest.fixture(scope="module")
def golden():
    return Golden("", FOLDER / "segmentation.npz")


@pytest.fixture(scope="module")
def tiny():
    """Published entries of the tiny network."""
    return segmentation_state(TINY)


def converted(config, state):
    params, stats, report = conversion.convert_arrays(state, config=config, **NETWORK)
    assert report.complete
    return registry.graphdef("cen", config, "Segmentation"), params, stats


def check_logits(golden, config, state, name, count):
    graphdef, params, stats = converted(config, state)
    images = [golden.nhwc(f"in:{kind}")[:count] for kind in ("rgb", "depth")]
    run = jax.jit(lambda p, s, x: functional.apply(graphdef, p, s, *x)[0])
    outputs, shares = run(params, stats, images)
    errors = [
        max_error(y, golden.nhwc(f"out:{name}/{kind}/f32"))
        for y, kind in zip(outputs, OUTPUTS, strict=True)
    ]
    print(name, dict(zip(OUTPUTS, (f"{error:.1e}" for error in errors), strict=True)))
    assert max(errors) <= 2e-6
    return shares


@pytest.mark.long
def test_logits_of_a_tiny_network(golden, tiny):
    shares = check_logits(golden, TINY, tiny, "tiny", 2)
    assert max_error(shares, golden["out:tiny/alpha_soft/f32"]) <= 1e-6


@pytest.mark.long
def test_logits_of_resnet_50(golden):
    config = RESNETS[50]
    check_logits(golden, config, segmentation_state(config), "resnet50", 1)


@pytest.mark.long
def test_names_and_sizes_of_the_published_networks(golden):
    with (FOLDER / "keys_resnet101.csv").open() as file:
        rows = {row["key"]: row["shape"] for row in csv.DictReader(file)}
    wanted = {
        key: tuple(int(n) for n in shape.split("x"))
        for key, shape in rows.items()
        if not key.endswith("num_batches_tracked")
    }
    assert shapes(RESNETS[101]) == wanted
    for depth, config in RESNETS.items():
        params = registry.abstract("cen", config, "Segmentation")[1]
        count = int(golden[f"scalar:parameters:resnet{depth}_40classes"][0])
        assert registry.count_parameters(params) == count


def optimiser(params):
    """SGD as published: weight decay on everything, a lower rate for the encoder."""
    parts = {path: "encoder" if path.startswith(("stem", "stages")) else "rest" for path in params}
    rates = {
        name: optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(rate, momentum=0.9))
        for name, rate in (("encoder", 5e-4), ("rest", 3e-3))
    }
    return optax.multi_transform(rates, parts)


def published(flat, stats, state):
    """Our parameters, or their gradients, under published names."""
    return conversion.to_state_dict(flat, stats, state, **NETWORK)


@pytest.mark.long
@pytest.mark.usefixtures("x64")
@pytest.mark.unchecked
def test_two_steps_of_a_tiny_network(golden, tiny):
    """In double precision: in single, rounding alone is 1.6e-4 of the largest gradient."""
    graphdef, params, stats = converted(TINY, tiny)
    params, stats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, stats))
    images = [golden.nhwc(f"in:{kind}").astype(jnp.float64) for kind in ("rgb", "depth")]
    labels = jnp.asarray(golden["in:target"].astype(np.int32))
    rule = optimiser(params)

    def loss(params):
        (outputs, _), _ = functional.apply(graphdef, params, stats, *images)
        penalty = sparsity(list(layers_of_scales(params, EXCHANGING).values()))
        total, each = losses.segmentation(outputs, labels, penalty)
        return total, (each, penalty)

    @jax.jit
    def step(params, opt):
        (total, (each, penalty)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = rule.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, grads, total, each, penalty

    opt, start = rule.init(params), published(params, stats, tiny)
    for number in (0, 1):
        params, opt, grads, *values = step(params, opt)
        prefix = f"out:tiny/step{number}/"
        errors = {
            name: float(np.abs(np.asarray(value) / golden[f"{prefix}{name}/f64"] - 1).max())
            for name, value in zip(("loss", "nll", "l1"), values, strict=True)
        }
        grads, now = published(grads, stats, tiny), published(params, stats, tiny)
        found = {"gradients": [], "norms": [], "moved": [], "parameters": []}
        for key, value in golden.arrays.items():
            part, name = key.rpartition("/")[::2]
            if part == f"grad:tiny/step{number}":
                found["gradients"].append(np.abs(grads[name] - value).max() / np.abs(value).max())
            elif part == f"{prefix}gradnorm":
                found["norms"].append(abs(np.linalg.norm(grads[name]) / value[0] - 1))
            elif part == f"{prefix}delta_l2":
                moved = np.linalg.norm(now[name] - start[name])
                found["moved"].append(abs(moved / value[0] - 1))
            elif part == f"{prefix}param":
                found["parameters"].append(np.abs(now[name] - value).max())
        assert [len(v) for v in found.values()] == [20, 174, 174, 17]
        errors |= {name: max(values) for name, values in found.items()}
        print(number, {name: f"{error:.1e}" for name, error in errors.items()})
        assert max(errors[name] for name in ("loss", "nll", "l1")) <= 1e-6
        assert errors["gradients"] <= 1e-4
        assert max(errors.values()) <= 1e-4
