"""MGDN beyond the published form: heads that start from the inputs, patches, sets, tasks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import noise
from helpers_systems import drawn

from mgdn_jax.errors import InputError
from mgdn_jax.layers import functional, pyramid
from mgdn_jax.layers.exposures import rule_logits
from mgdn_jax.layers.scales import blocks_to_channels, channels_to_blocks
from mgdn_jax.quantities.depth import rgb_input
from mgdn_jax.quantities.radiance import inputs, mu_law
from mgdn_jax.systems import registry
from mgdn_jax.systems.mgdn.network import PRESETS, Config, Network
from mgdn_jax.systems.mgdn.recipe import Recipe

TINY = {"features": 12, "depths": (1,), "heads": (3,), "window": 4, "mlp_ratio": 1.0}
DEPTH = dataclasses.replace(PRESETS["gdsr"], **TINY, head="residual", patch=2)
RADIANCE = dataclasses.replace(PRESETS["hdr"], **TINY, head="merge", patch=2)
SET = Config(**TINY, guidance="set", head="blend", patch=2)


def fresh(config, *images):
    """Result and aux of a network as it starts."""
    graphdef, params, _ = registry.initialise("mgdn", config, jax.random.key(0))
    return functional.apply(graphdef, params, {}, *images)[0]


def run(config, *images, **keywords):
    """Result and aux of a network with weights that are drawn."""
    graphdef, params = drawn("mgdn", config, 0.2)
    return functional.apply(graphdef, params, {}, *images, **keywords)[0]


def test_patches_are_blocks_of_pixels():
    x = noise(2, 6, 8, 3)
    blocks = blocks_to_channels(x, 2)
    assert blocks.shape == (2, 3, 4, 12)
    np.testing.assert_array_equal(blocks[0, 1, 2].reshape(2, 2, 3), x[0, 2:4, 4:6])
    np.testing.assert_array_equal(channels_to_blocks(blocks, 2), x)
    assert blocks_to_channels(x, 1) is x


def test_a_residual_starts_as_the_enlarged_map():
    rgb, depth = noise(1, 9, 14, 3), noise(1, 9, 14, 1, seed=1)
    fused, _ = fresh(DEPTH, rgb, depth)
    np.testing.assert_array_equal(fused, depth)
    assert float(jnp.abs(run(DEPTH, rgb, depth)[0] - depth).max()) > 1e-3


def test_a_merge_starts_as_the_reference_where_it_is_good():
    middle = noise(1, 10, 13, 3) * 0.8
    lost = middle.at[:, :4].set(1.0)
    short, long = noise(1, 10, 13, 3, seed=1) * 0.5, noise(1, 10, 13, 3, seed=2)
    prepared = inputs([short, lost, long], (1.0, 4.0, 16.0))
    fused, aux = fresh(RADIANCE, *prepared)
    assert float(jnp.min(aux["weights"][:, :4, :, 0])) > 0.97
    assert float(jnp.min(aux["weights"][:, 4:, :, 1])) > 0.97
    expected = jnp.where(jnp.arange(10)[:, None, None] < 4, short**2.2, middle**2.2 / 4)
    assert float(jnp.abs(fused - expected).max()) < 0.02
    assert np.isfinite(np.asarray(run(RADIANCE, *prepared)[0])).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_set_takes_any_number_in_any_order(count):
    pictures = [noise(1, 9, 11, 3, seed=seed) for seed in range(count)]
    fused, aux = run(SET, *pictures)
    assert aux["weights"].shape == (1, 9, 11, count)
    np.testing.assert_allclose(np.sum(aux["weights"], -1), 1, atol=1e-6)
    assert float(np.ptp(aux["weights"])) > 1e-3
    turned, other = run(SET, *pictures[::-1])
    np.testing.assert_allclose(turned, fused, atol=2e-6)
    np.testing.assert_allclose(other["weights"][..., ::-1], aux["weights"], atol=2e-6)


def test_a_pyramid_blends_details_by_the_weights_of_their_scale():
    config = dataclasses.replace(SET, head="pyramid")
    pictures = [noise(1, 17, 12, 3, seed=seed) for seed in range(3)]
    fused, aux = run(config, *pictures)
    np.testing.assert_allclose(fused, pyramid.blend(pictures, aux["weights"]), atol=1e-6)
    plain, same = run(SET, *pictures)
    weighed = same["weights"] * jnp.exp(rule_logits(pictures))
    weighed = weighed / jnp.sum(weighed, -1, keepdims=True)
    np.testing.assert_allclose(aux["weights"], weighed, atol=1e-6)
    assert float(jnp.abs(fused - plain).max()) > 1e-3
    _, start = fresh(config, *pictures)
    np.testing.assert_allclose(start["weights"], jax.nn.softmax(rule_logits(pictures)), atol=1e-6)


def test_the_weights_of_a_pyramid_do_not_see_beyond_the_extent():
    config = dataclasses.replace(SET, head="pyramid")
    images = [noise(1, 13, 10, 3, seed=seed) for seed in range(2)]
    _, exact = run(config, *images)
    padded = [jnp.pad(x, ((0, 0), (0, 19), (0, 6), (0, 0)), constant_values=7.0) for x in images]
    _, aux = run(config, *padded, extent=jnp.asarray([[13, 10]]))
    np.testing.assert_allclose(aux["weights"][:, :13, :10], exact["weights"], atol=1e-5)


def test_equal_pictures_of_a_set_share_their_weight():
    one, two = noise(1, 8, 8, 3), noise(1, 8, 8, 3, seed=1)
    _, aux = run(SET, one, two, one)
    np.testing.assert_allclose(aux["weights"][..., 0], aux["weights"][..., 2], atol=1e-6)


def test_a_set_needs_two_pictures_of_one_kind():
    one = noise(1, 8, 8, 3)
    with pytest.raises(ValueError, match="takes 2 images"):
        run(SET, one)
    with pytest.raises(ValueError, match="expected"):
        run(SET, one, one, noise(1, 8, 8, 1))


@pytest.mark.parametrize("config", [DEPTH, RADIANCE, SET])
def test_what_lies_beyond_the_extent_changes_nothing(config):
    images = [noise(1, 13, 10, n, seed=n + i) for i, n in enumerate(config.in_channels)]
    exact, _ = run(config, *images)
    padded = [jnp.pad(x, ((0, 0), (0, 19), (0, 6), (0, 0)), constant_values=7.0) for x in images]
    fused, _ = run(config, *padded, extent=jnp.asarray([[13, 10]]))
    np.testing.assert_allclose(fused[:, :13, :10], exact, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("config", [DEPTH, SET])
def test_tiles_share_the_sums_of_the_whole(config):
    images = [noise(1, 16, 32, n, seed=n + i) for i, n in enumerate(config.in_channels)]
    whole, aux = run(config, *images)
    weights = [jnp.ones((1, 16, 16, 1))] * 2
    halves = [[x[:, :, :16] for x in images], [x[:, :, 16:] for x in images]]
    sums = jax.tree.map(
        jnp.add,
        *(
            run(config, *half, context=aux["context"], pixel_weights=w)[1]["context"]
            for half, w in zip(halves, weights, strict=True)
        ),
    )
    assert sums.keys() == aux["context"].keys()
    # Counts are of maps, so the means agree; borders of the halves see other neighbours.
    for name, value in sums.items():
        if name.endswith("count"):
            np.testing.assert_allclose(value, aux["context"][name], rtol=1e-6)
    left = run(config, *halves[0], context=aux["context"])[0]
    np.testing.assert_allclose(left[:, :, :2], whole[:, :, :2], atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "sharp"}, "head is one of 'direct', 'blend', 'pyramid', 'residual', 'merge'"),
        ({"guidance": "set"}, "a set needs head 'blend' or 'pyramid'"),
        ({"head": "merge"}, r"head 'merge' needs in_channels \(6, 6, 6\)"),
        ({"head": "residual", "out_channels": 1}, "an output like the input of the skip"),
        ({"patch": 0}, "patch must be a positive whole number"),
        ({"guidance": "round"}, "guidance is one of 'mutual', 'reference', 'set'"),
    ],
)
def test_forms_that_make_no_sense(fields, message):
    with pytest.raises(InputError, match=message):
        Config(**fields)


def test_weights_of_cards_without_the_new_fields_are_read():
    fields = PRESETS["mff"].to_dict()
    del fields["patch"]
    assert Config.from_dict(fields) == PRESETS["mff"]
    assert not PRESETS["mff"].sets
    assert SET.sets
    assert SET.grid == 8
    assert Network.takes == {"context", "extent"}


def model(config):
    return {**config.to_dict(), "preset": "mff"}


def test_radiance_is_compared_after_the_mu_law():
    recipe = Recipe(model(RADIANCE), space="mu", light=2.0, nmi=0.1)
    assert recipe.best == "psnr_mu"
    exposures = [noise(2, 12, 12, 3, seed=s) for s in range(3)]
    batch = dict(zip("abc", inputs(exposures, (1.0, 4.0, 16.0)), strict=True))
    batch["target"] = noise(2, 12, 12, 3, seed=4)
    params, stats = recipe.init(jax.random.key(0))
    loss, (_, terms) = recipe.loss(params, stats, batch, None)
    fused = recipe.fuse(params, stats, *recipe.sources(batch))
    l1 = float(jnp.mean(jnp.abs(mu_law(fused) - mu_law(batch["target"]))))
    np.testing.assert_allclose(terms["l1"], l1, rtol=1e-5)
    light = float(jnp.mean(jnp.square(fused - batch["target"])))
    np.testing.assert_allclose(terms["light"], light, rtol=1e-5)
    expected = l1 + 2 * light + 0.1 * float(terms["nmi"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    figures, pictures = recipe.judge(params, stats, batch)
    clipped = jnp.clip(fused, 0, 1)
    errors = jnp.mean(jnp.square(mu_law(clipped) - mu_law(batch["target"])), (1, 2, 3))
    np.testing.assert_allclose(figures["psnr_mu"], np.mean(-10 * np.log10(errors)), rtol=1e-5)
    assert figures.keys() == {"psnr_mu", "psnr_l", "ssim_mu"}
    assert pictures == []
    shown = recipe.display(batch, [fused])
    np.testing.assert_array_equal(shown[1], exposures[1])
    np.testing.assert_allclose(shown[-1], mu_law(batch["target"]), atol=1e-6)
    assert [x.shape[-1] for x in shown] == [3] * 5


def test_depth_is_judged_in_the_unit_of_its_files():
    recipe = Recipe(model(DEPTH), edges=0.5)
    assert recipe.best == "rmse"
    picture = np.asarray(noise(12, 12, 3))
    batch = {
        "a": jnp.asarray(rgb_input(picture))[None],
        "b": noise(1, 12, 12, 1, seed=1),
        "target": noise(1, 12, 12, 1, seed=2),
        "span": jnp.asarray([2000.0]),
    }
    params, stats = recipe.init(jax.random.key(0))
    _, (_, terms) = recipe.loss(params, stats, batch, None)
    error = np.asarray(batch["b"] - batch["target"])[0, ..., 0]
    steps = np.abs(np.diff(error, axis=0)).mean() + np.abs(np.diff(error, axis=1)).mean()
    np.testing.assert_allclose(terms["edges"], steps, rtol=1e-5)
    figures, _ = recipe.judge(params, stats, batch)
    np.testing.assert_allclose(figures["rmse"], 2000 * np.sqrt(np.mean(error**2)), rtol=1e-5)
    shown = recipe.display(batch, [batch["b"]])
    np.testing.assert_allclose(shown[0][0], picture, atol=1e-5)


def test_a_set_trains_on_all_exposures_of_a_batch():
    recipe = Recipe(model(SET), nmi=0.1)
    batch = {name: noise(2, 8, 8, 3, seed=ord(name)) for name in "abc"}
    batch["target"] = noise(2, 8, 8, 3)
    assert len(recipe.sources(batch)) == 3
    params, stats = recipe.init(jax.random.key(0))
    gradient = jax.grad(lambda p: recipe.loss(p, stats, batch, None)[0])(params)
    sizes = {k: float(jnp.abs(v).max()) for k, v in gradient["fusion"].items()}
    assert sizes["last/kernel"] > 0
    assert all(np.isfinite(v) for v in sizes.values())
    mean = sum(batch[name] for name in "abc") / 3
    np.testing.assert_allclose(recipe.fuse(params, stats, *recipe.sources(batch)), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supervised": False}, "recipe.l1, recipe.mse, recipe.light and recipe.edges need"),
        ({"space": "log"}, "recipe.space is 'plain' or 'mu'"),
        ({"light": 1.0}, "recipe.light is for recipe.space='mu'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        Recipe(None, **settings)
