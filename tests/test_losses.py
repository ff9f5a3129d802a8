"""Losses: goldens, values by hand, gradients, and properties a wrong formula would break."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error
from scipy.ndimage import gaussian_filter

from mgdn_jax import losses
from mgdn_jax.image import luminance
from mgdn_jax.metrics.exposure import exposure_similarity, exposure_similarity_by_scale
from mgdn_jax.systems.mgdn.losses import masked_nmi, normalised_mutual_information, structure_mask

KEY = jax.random.key(0)
nmi = jax.jit(normalised_mutual_information)
penalty = jax.jit(masked_nmi, static_argnames="reference")
mask_of = jax.jit(structure_mask)
A, B, F = (jax.random.uniform(k, (2, 17, 19, 3)) for k in jax.random.split(KEY, 3))
C = jax.random.uniform(jax.random.key(1), A.shape)


@pytest.mark.optimised
def test_masked_mutual_information_golden():
    golden = Golden("mgdn_nmi_project")
    mask = mask_of([golden.nhwc("in:target")])
    assert np.array_equal(mask, golden["mid:weight"][:, 0])
    features = golden.nhwc("in:feat_1"), golden.nhwc("in:feat_2")
    error = max_error(nmi(*features, mask), golden["out:nmi"])
    print("nmi", error)
    assert error <= 1e-6

    def loss(first, second):
        return jnp.mean(masked_nmi([[first, second]], [golden.nhwc("in:target")]))

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(*features)
    assert abs(float(value) - float(golden["scalar:loss"])) <= 1e-6
    for grad, name in zip(grads, ("feat_1", "feat_2"), strict=True):
        assert relative_error(grad, np.moveaxis(golden[f"grad:in.{name}"], 1, -1)) <= 1e-4


@pytest.mark.optimised
def test_mutual_information_properties():
    x, y = (jax.random.normal(k, (2, 32, 32, 6)) for k in jax.random.split(KEY))
    ones = jnp.ones((2, 32, 32))
    assert float(nmi(x, x, ones).min()) > 0.4  # bin smoothing keeps it below 1
    assert float(nmi(x, y, ones).max()) < 0.02
    assert max_error(nmi(x, 3.0 * x, ones), np.asarray(nmi(x, x, ones))) < 1e-4
    assert max_error(nmi(x, y, ones), np.asarray(nmi(y, x, ones))) < 1e-6
    few = ones.at[:, 1:].set(0.0).at[:, 0, 8:].set(0.0)  # under 1 % of the pixels
    assert np.array_equal(nmi(x, x, few), [0.0, 0.0])
    # pixels of weight 0 do not matter
    half = ones.at[:, 16:].set(0.0)
    other = x.at[:, 16:].set(7.0)
    assert max_error(nmi(x, y, half), np.asarray(nmi(other, y, half))) < 1e-5


def test_stages_combine_as_a_running_half():
    x, y, z = (jax.random.normal(k, (1, 16, 16, 4)) for k in jax.random.split(KEY, 3))
    image = [jax.random.uniform(KEY, (1, 16, 16, 3))]
    one = [penalty([pair], image) for pair in ([x, y], [x, x], [y, y])]
    three = penalty([[x, y], [x, x], [y, y]], image)
    assert np.allclose(three, one[0] / 4 + one[1] / 4 + one[2] / 2, atol=1e-6)
    around = penalty([[x, y, z]], image, reference=1)
    by_hand = (penalty([[x, y]], image) + penalty([[z, y]], image)) / 2
    assert np.allclose(around, by_hand, atol=1e-6)
    each = by_hand * 2 / 3 + penalty([[x, z]], image) / 3
    assert np.allclose(penalty([[x, y, z]], image), each, atol=1e-6)


def test_padding_is_masked():
    x, y = (jax.random.normal(k, (1, 12, 16, 4)) for k in jax.random.split(KEY))
    image = jax.random.uniform(KEY, (1, 10, 13, 3))
    value = penalty([[x, y]], [image])
    changed = x.at[:, 10:].set(9.0).at[:, :, 13:].set(-9.0)
    assert np.allclose(penalty([[changed, y]], [image]), value, atol=1e-6)


def test_structure_mask_keeps_flat_and_drops_edges():
    image = jnp.zeros((1, 16, 16, 1)).at[:, :, 8:].set(1.0)
    mask = np.asarray(mask_of([image]))[0]
    assert not mask[:, 7:9].any()
    assert mask[:, :6].all()
    assert mask[:, 10:].all()


def test_l1_mse_and_intensity_by_hand():
    assert np.allclose(losses.l1(A, B), np.abs(np.asarray(A) - np.asarray(B)).mean((1, 2, 3)))
    assert np.allclose(losses.mse(A, B), np.square(np.asarray(A) - np.asarray(B)).mean((1, 2, 3)))
    assert np.allclose(losses.intensity(jnp.maximum(A, B), A, B), 0.0)
    assert np.allclose(losses.intensity((A + B) / 2, A, B, rule="mean"), 0.0, atol=1e-7)
    a, b = jnp.float32([0.2, 0.9, 0.0, 1.0]), jnp.float32([0.4, 0.8, 0.0, 0.7])
    a, b = (x.reshape(1, 2, 2, 1) for x in (a, b))  # the mean of both is 0.5
    for rule, by_hand in (
        ("max", [0.4, 0.9, 0.0, 1.0]),
        ("mean", [0.3, 0.85, 0.0, 0.85]),
        ("sum", [0.1, 1.0, 0.0, 1.0]),
        ("screen", [0.52, 0.98, 0.0, 1.0]),
    ):
        target = losses.intensity_target(a, b, rule)
        assert np.allclose(target.ravel(), by_hand, atol=1e-6), rule
        assert np.allclose(losses.intensity(target, a, b, rule=rule), 0.0)
        assert np.allclose(losses.intensity_target(b, a, rule), target), rule
        for share in (0.0, 0.25):
            mixed = np.maximum(a, b) + share * (target - np.maximum(a, b))
            assert np.allclose(losses.intensity_target(a, b, rule, share), mixed, atol=1e-6), rule
    with pytest.raises(ValueError, match="rule is one of max, mean, sum, screen, got 'median'"):
        losses.intensity(A, A, B, rule="median")


def test_terms_over_a_set_take_every_source_once():
    for loss in (
        losses.gradient_max,
        losses.intensity,
        functools.partial(losses.intensity, rule="mean"),
    ):
        three = loss(F, A, B, C)
        assert not np.allclose(three, loss(F, A, B), rtol=1e-3)
        for order in itertools.permutations((A, B, C)):
            assert np.allclose(loss(F, *order), three, rtol=1e-6)
        with pytest.raises(ValueError, match="two or more sources are needed, got 1"):
            loss(F, A)
    assert np.allclose(losses.intensity((A + B + C) / 3, A, B, C, rule="mean"), 0.0, atol=1e-7)
    assert np.allclose(losses.intensity(jnp.maximum(A, jnp.maximum(B, C)), A, B, C), 0.0)
    assert np.allclose(losses.gradient_max(F, A, B, A), losses.gradient_max(F, A, B))
    edge = jnp.zeros((1, 16, 16, 1)).at[:, :, 8:].set(1.0)
    flat = jnp.zeros_like(edge)
    assert float(losses.gradient_max(edge, flat, flat, edge)[0]) == 0.0
    with pytest.raises(ValueError, match="rule is 'max' or 'mean' for 3 sources, got 'sum'"):
        losses.intensity(F, A, B, C, rule="sum")


def test_flat_regions_have_no_l1_gradient():
    assert not np.asarray(jax.grad(lambda x: losses.l1(x, A).sum())(A)).any()
    assert float(jax.grad(losses.absolute)(-2.0)) == -1.0


def test_ssim_equals_a_direct_window_sum():
    x, y = np.asarray(A[..., :1], np.float64), np.asarray(B[..., :1], np.float64)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local(f):
        h, w = f.shape[1] - 10, f.shape[2] - 10
        return sum(window[i, j] * f[:, i : i + h, j : j + w] for i in range(11) for j in range(11))

    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = 1e-4, 9e-4
    wanted = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    ours = jax.jit(losses.ssim)(A[..., :1], B[..., :1])
    assert np.allclose(ours, wanted.mean((1, 2, 3)), atol=1e-5)
    assert np.allclose(jax.jit(losses.ssim_loss)(A, A), 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="11 pixels"):
        losses.ssim(A[:, :10], B[:, :10])


def test_gradient_max_prefers_the_stronger_edge():
    edge = jnp.zeros((1, 16, 16, 1)).at[:, :, 8:].set(1.0)
    flat = jnp.zeros_like(edge)
    assert float(losses.gradient_max(edge, edge, flat)[0]) == 0.0
    assert float(losses.gradient_max(flat, edge, flat)[0]) > 0.05
    with jax.enable_x64(True):  # far below the distance of any pixel to a kink
        a, b, f = (jnp.asarray(np.asarray(x), jnp.float64) for x in (A, B, F))
        step, direction = 1e-7, jax.random.normal(KEY, A.shape, jnp.float64)
        steeper = jax.jit(losses.gradient_max)
        value = jax.jit(jax.grad(lambda f, a, b: losses.gradient_max(f, a, b).sum()))(f, a, b)
        ahead, behind = (steeper(f + s * direction, a, b).sum() for s in (step, -step))
        numeric = float(ahead - behind) / (2 * step)
        assert np.allclose(float((value * direction).sum()), numeric, rtol=1e-4)


@pytest.mark.unchecked
def test_shapes_never_broadcast():
    for loss in (losses.l1, losses.mse, losses.ssim, losses.ssim_loss):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(A, B[:1])
    for loss in (losses.gradient_max, losses.intensity):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(A, B, B[..., :1])
    with pytest.raises(ValueError, match="do not fit"):
        normalised_mutual_information(A, B, jnp.ones((2, 17, 20)))


def exposures(count, height=61, width=50):
    """A scene exposed so many times, and a blend of them."""
    rng = np.random.default_rng(4)
    light = gaussian_filter(rng.random((height, width, 3)), (1.5, 1.5, 0)) ** 3
    light = light * np.exp(3 * gaussian_filter(rng.normal(size=(height, width, 1)), (9, 9, 0)) * 9)
    gains = np.exp2(np.linspace(-2, 3, count)) / light.mean()
    sources = [np.rint(255 * np.clip(0.4 * gain * light, 0, 1) ** 0.45) for gain in gains]
    return np.rint(np.mean(sources, 0)), sources


@pytest.mark.parametrize("count", [2, 3])
def test_mef_ssim_is_that_of_the_ruler(count):
    fused, sources = exposures(count)
    grays = [luminance(x)[..., 0] for x in (fused, *sources)]  # the ruler's rounds colours
    unit = [jnp.asarray(x[None] / 255, jnp.float32) for x in (fused, *sources)]
    mef = jax.jit(losses.mef_ssim, static_argnames="scales")
    whole = float(mef(unit[0], unit[1:], scales=3)[0])
    assert whole == pytest.approx(exposure_similarity(*grays), abs=1e-4)
    by_scale = exposure_similarity_by_scale(*grays)
    assert float(mef(unit[0], unit[1:])[0]) == pytest.approx(by_scale[0], abs=1e-4)
    assert 0.3 < whole < 0.99
    turned = mef(unit[0], unit[:0:-1], scales=3)
    assert float(turned[0]) == pytest.approx(whole, abs=1e-5)


def test_mef_ssim_has_a_gradient_that_helps_and_is_finite_on_flat_pictures():
    fused, sources = exposures(2, 44, 46)
    unit = [jnp.asarray(x[None] / 255, jnp.float32) for x in (fused, *sources)]

    @jax.jit
    def descend(fused, sources):
        value, slope = jax.value_and_grad(lambda x: losses.mef_ssim(x, sources, scales=3)[0])(fused)
        return value, fused + 0.05 * slope / jnp.maximum(jnp.abs(slope).max(), 1e-12)

    before, better = descend(unit[0], unit[1:])
    assert float(descend(better, unit[1:])[0]) > float(before) + 1e-3
    flat = [jnp.full((1, 44, 46, 3), value, jnp.float32) for value in (0.3, 0.0, 1.0)]
    value, same = descend(flat[0], flat[1:])
    assert float(value) == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(np.asarray(same)).all()


def test_mef_ssim_refuses_what_does_not_fit():
    x = jnp.zeros((1, 40, 60, 1))
    with pytest.raises(ValueError, match="two or more sources, got 1"):
        losses.mef_ssim(x, [x])
    with pytest.raises(ValueError, match="1 to 3 scales, got 4"):
        losses.mef_ssim(x, [x, x], scales=4)
    with pytest.raises(ValueError, match="sides of at least 41 pixels"):
        losses.mef_ssim(x, [x, x], scales=3)
