"""CEN's fusion network: it starts as a rule, and branches meet in exchanged channels alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import noise
from helpers_cen import segmentation_state

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import Mode
from mgdn_jax.systems import registry
from mgdn_jax.systems.cen import losses
from mgdn_jax.systems.cen.network import PRESETS, Config
from mgdn_jax.systems.cen.segmentation import SegmentationConfig, resize_corners
from mgdn_jax.weights import conversion

SMALL = Config(encoder=(4, 6), decoder=(4,))


def drawn(config, spread=0.3):
    """(graphdef, params, stats) of a network whose last convolution is not zero."""
    graphdef, params, stats = registry.initialise("cen", config, jax.random.key(0))
    params["last/kernel"] = spread * (noise(*params["last/kernel"].shape) - 0.5)
    return graphdef, params, stats


def fuse(network, a, b, **keywords):
    graphdef, params, stats = network
    return jax.jit(lambda: functional.apply(graphdef, params, stats, a, b, **keywords)[0])()


def pair(h=9, w=11, batch=2):
    return noise(batch, h, w, 1), noise(batch, h, w, 1, seed=1)


def test_sizes_of_the_presets():
    counts = {name: registry.count_parameters(registry.abstract("cen", config)[1])
              for name, config in PRESETS.items()}  # fmt: skip
    assert counts == {"ivf": 46_899, "ivf_plain": 46_899}
    assert dataclasses.replace(PRESETS["ivf"], exchange=False) == PRESETS["ivf_plain"]


@pytest.mark.parametrize("base", ["max", "mean"])
def test_it_starts_as_a_rule(base):
    a, b = pair()
    network = registry.initialise("cen", dataclasses.replace(SMALL, base=base), jax.random.key(0))
    fused, aux = fuse(network, a, b)
    rule = jnp.maximum(a, b) if base == "max" else (a + b) / 2
    for picture in (fused, *aux["outputs"]):
        np.testing.assert_allclose(picture, rule, atol=1e-6)
    assert np.array_equal(aux["shares"], [0.5, 0.5])


def test_what_a_branch_knows_of_the_other_picture_was_exchanged():
    a, b = pair()
    other = b.at[:, 4, 5].set(0.0)  # darker than the first picture or not: base "mean" is linear
    config = dataclasses.replace(SMALL, base="mean")

    def corrections(network, b):
        _, aux = fuse(network, a, b)
        return [picture - (a + b) / 2 for picture in aux["outputs"]]

    graphdef, params, stats = drawn(config)
    apart = corrections((graphdef, params, stats), other)[0]
    # Rounding of the base alone.
    assert jnp.abs(apart - corrections((graphdef, params, stats), b)[0]).max() < 1e-6
    low = {**params, "encoder/0/norm/norms/0/scale": jnp.asarray([1.0, 0.019, 1.0, 1.0])}
    moved = (
        corrections((graphdef, low, stats), other)[0] - corrections((graphdef, low, stats), b)[0]
    )
    assert jnp.abs(moved).max() > 1e-4
    plain = dataclasses.replace(config, exchange=False)
    network = (registry.graphdef("cen", plain), low, stats)
    assert jnp.abs(corrections(network, other)[0] - corrections(network, b)[0]).max() < 1e-6


def test_two_branches_with_equal_norms_see_equal_pictures_alike():
    a, _ = pair()
    _, aux = fuse(drawn(SMALL), a, a)
    np.testing.assert_allclose(aux["outputs"][0], aux["outputs"][1], atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_padding_changes_nothing(norm):
    network = drawn(dataclasses.replace(SMALL, norm=norm))
    a, b = pair(9, 7)
    wanted, _ = fuse(network, a, b)
    grown = [jnp.full((2, 12, 12, 1), 0.7).at[:, :9, :7].set(x) for x in (a, b)]
    extent = jnp.full((2, 2), 9, jnp.int32).at[:, 1].set(7)
    found, _ = fuse(network, *grown, extent=extent)
    np.testing.assert_allclose(found[:, :9, :7], wanted, atol=2e-6)


def test_mistakes():
    network = drawn(SMALL)
    a, b = pair()
    with pytest.raises(ValueError, match=r"expected two \(b, h, w, 1\) of one shape"):
        fuse(network, a, b[:, :4])
    for fields, words in (
        ({"encoder": ()}, "encoder holds positive whole numbers, one or more"),
        ({"decoder": (4, 0)}, "decoder holds positive whole numbers"),
        ({"threshold": -0.1}, "threshold must be 0 or more"),
        ({"parts": "half"}, "parts is one of all, own_half"),
        ({"norm": "layer"}, "norm is one of batch, instance"),
        ({"base": "min"}, "base is one of max, mean"),
        ({"encoder": (4,) * 100, "decoder": (4,) * 100}, "has 200 blocks"),
    ):
        with pytest.raises(InputError, match=words):
            Config(**fields)


# ---- the published segmentation network ----------------------------------------------------------

NARROW = SegmentationConfig(blocks=(1, 1, 1, 1), features=4, decoder=(8, 4), classes=3)


def test_a_narrow_segmentation_network_there_and_back_again():
    state = segmentation_state(NARROW)
    network = {"system": "cen", "network": "Segmentation"}
    params, stats, report = conversion.convert_arrays(state, config=NARROW, **network)
    assert report.complete
    back = conversion.to_state_dict(params, stats, state, **network)
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    params, stats = jax.tree.map(jnp.asarray, (params, stats))
    graphdef = registry.graphdef("cen", NARROW, "Segmentation")
    images = [noise(2, 21, 26, 3, seed=i) for i in (0, 1)]

    @jax.jit
    def run(keys):
        mode = Mode(training=True, keys=keys)
        return functional.apply(graphdef, params, stats, *images, mode=mode)

    (outputs, shares), new = run(jax.random.split(jax.random.key(0), 2))
    assert [y.shape for y in outputs] == [(2, 6, 7, 3)] * 3
    mean = shares[0] * outputs[0] + shares[1] * outputs[1]
    np.testing.assert_allclose(outputs[2], mean, atol=1e-7)
    # Other keys drop other values. Statistics stay in training too.
    assert not np.allclose(run(jax.random.split(jax.random.key(1), 2))[0][0][0], outputs[0])
    assert all(np.array_equal(new[path], stats[path]) for path in stats)
    with pytest.raises(ValueError, match="expected 2 images of one shape"):
        functional.apply(graphdef, params, stats, images[0])


def test_corners_lie_on_corners():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    found = resize_corners(x, (3, 5))[0, ..., 0]
    np.testing.assert_allclose(found[0], [0, 0.5, 1, 1.5, 2], atol=1e-6)
    np.testing.assert_allclose(found[:, 0], [0, 1.5, 3], atol=1e-6)
    assert np.array_equal(resize_corners(x, (2, 3)), x)
    assert np.array_equal(resize_corners(x[:, :1, :1], (2, 2))[0, ..., 0], np.zeros((2, 2)))


def test_a_likelihood_by_hand():
    logits = jnp.log(jnp.asarray([0.5, 0.25, 0.25])).reshape(1, 1, 1, 3)
    labels = jnp.asarray([[[0, 1], [losses.IGNORED, 0]]])
    wanted = -(2 * np.log(0.5) + np.log(0.25)) / 3
    assert float(losses.negative_log_likelihood(logits, labels)) == pytest.approx(wanted, rel=1e-6)
    total, each = losses.segmentation([logits] * 3, labels, jnp.asarray(10.0), weight=0.1)
    assert each.shape == (3,)
    assert float(total) == pytest.approx(3 * wanted + 3 * 0.1 * 10, rel=1e-6)
