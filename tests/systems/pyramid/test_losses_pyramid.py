"""The losses equal the figures that tables show; the recipe adds them up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mgdn_jax import metrics
from mgdn_jax.errors import InputError
from mgdn_jax.systems.pyramid import losses
from mgdn_jax.systems.pyramid.recipe import Recipe

PAIRS = {"edge_transfer": ("Qabf", 2e-3), "fidelity": ("VIF", 1e-4), "differences": ("SCD", 1e-5)}


def scene(seed, size=64):
    """Something with edges, slopes and a little noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    picture = 90 + 60 * np.sin(7 * x + seed) * np.cos(5 * y) + 4 * rng.standard_normal((size, size))
    picture[10 + seed : 30, 20 : 40 + seed] += 50
    return picture.clip(0, 255).astype(np.uint8)


def batch(*pictures):
    return [jnp.asarray(x[None, ..., None] / 255, jnp.float32) for x in pictures]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rule", [np.maximum, lambda a, b: a // 2 + b // 2, np.minimum])
def test_they_equal_the_ruler(name, rule):
    figure, bound = PAIRS[name]
    a, b = scene(1), scene(5)
    fused = rule(a, b)
    wanted = metrics.evaluate(fused, a, b, [figure])[figure]
    value = float(getattr(losses, name)(*batch(fused, a, b))[0])
    print(name, value, wanted)
    assert abs(value - wanted) <= bound * max(1, abs(wanted))


@pytest.mark.parametrize("name", [*PAIRS, "information"])
def test_one_value_an_example_each_by_itself(name):
    loss = getattr(losses, name)
    sets = [batch(scene(k + 2), scene(k), scene(k + 1)) for k in (0, 3)]
    both = loss(*(jnp.concatenate(parts) for parts in zip(*sets, strict=True)))
    np.testing.assert_allclose(both, [loss(*parts)[0] for parts in sets], rtol=2e-5)


@pytest.mark.parametrize("name", [*PAIRS, "information"])
def test_flat_pictures_have_a_finite_gradient(name):
    flat, picture = jnp.full((1, 64, 64, 1), 0.5), batch(scene(1))[0]
    gradient = jax.jit(jax.grad(lambda *images: getattr(losses, name)(*images).sum()))
    for fused, a in ((flat, picture), (picture, flat), (flat, flat)):
        assert bool(jnp.isfinite(gradient(fused, a, picture)).all())


def test_gradients_are_right():
    a, b, fused = batch(*(scene(k, 48) for k in (1, 5, 3)))
    for loss in (losses.differences, losses.fidelity):
        check_grads(
            lambda x, loss=loss: loss(jnp.asarray(x), a, b),
            (fused,),
            1,
            ["rev"],
            atol=2e-2,
            rtol=2e-2,
        )


def test_information_grows_with_what_is_told():
    a, b = batch(scene(1), scene(5))
    noise = jnp.asarray(np.random.default_rng(0).random(a.shape), jnp.float32)
    told = [float(losses.information(x, a, b)[0]) for x in (noise, (a + b) / 2, a)]
    assert told == sorted(told)
    # Of independent values there is none but what few pixels feign.
    assert float(losses.information(noise, a, a)[0]) < 1.2
    same = losses.information(a, a, a)[0] / 2
    values = np.asarray(a)[0, ::2, ::2, 0].ravel() * 31
    shares = np.maximum(1 - np.abs(values[:, None] - np.arange(32)), 0)
    joint = shares.T @ shares / len(shares)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    wanted = np.sum(joint * np.log2(np.maximum(joint, 1e-12) / np.maximum(apart, 1e-12)))
    assert abs(float(same) - wanted) < 1e-3


def test_the_recipe_weighs_its_terms():
    a, b = batch(scene(1), scene(5))
    pair = {"a": a, "b": b}
    recipe = Recipe({"levels": 1, "features": 4, "convolutions": 1})
    params, stats = recipe.init(jax.random.key(0))
    total, (_, terms) = recipe.loss(params, stats, pair, None)
    settings = recipe.settings
    wanted = sum(getattr(settings, name) * float(value) for name, value in terms.items())
    assert abs(float(total) - wanted) < 1e-4
    for name in terms:
        off = {other: 0.0 for other in terms if other not in (name, "range")}
        if name == "range":
            continue
        alone = Recipe({"levels": 1, "features": 4, "convolutions": 1}, **off)
        value = float(alone.loss(params, stats, pair, None)[0])
        limits = settings.range * float(terms["range"])
        assert abs(value - getattr(settings, name) * float(terms[name]) - limits) < 1e-4
    figures, shown = recipe.judge(params, stats, pair)
    assert shown == []
    assert abs(float(figures["qabf"]) - (1 - float(terms["edges"]))) < 1e-3


def test_mistakes_are_named():
    for settings, message in (
        ({"edges": -1.0}, "recipe.edges is -1.0 and must be 0 or more"),
        ({"tone_rule": "min"}, "recipe.tone_rule is 'min'; it is one of max"),
        ({"tone_share": 1.5}, "recipe.tone_share is 1.5 and must be in"),
        (dict.fromkeys(("edges", "fidelity", "ssim", "differences", "information", "contrast",
                        "tone", "gradient"), 0.0), "recipe has no loss"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Recipe({}, **settings)
    recipe = Recipe({})
    colour = jnp.zeros((1, 64, 64, 3))
    with pytest.raises(InputError, match="about luminance"):
        recipe.loss(*recipe.init(jax.random.key(0)), {"a": colour, "b": colour}, None)
