"""CDDFuse's losses against the original: values and gradients, in both forms; their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error

from mgdn_jax import losses
from mgdn_jax.systems.cddfuse.losses import (
    FORMS,
    correlation,
    decomposition,
    fusion_max,
    fusion_phase,
    gradient_l1,
    reconstruction_phase,
    structural_dissimilarity,
    structure,
)

GOLDEN = Golden("cddfuse_losses")

dissimilarity = jax.jit(structural_dissimilarity, static_argnames="form")


def recon(vis, gen):
    return structure(gen, vis)


def fusion(vis, ir, gen):
    return fusion_max(gen, ir, vis)


def apart(base1, base2, detail1, detail2):
    return decomposition(base1, base2, detail1, detail2)


CASES = {
    "ssim_loss": (structural_dissimilarity, ("vis", "gen")),
    "mse": (losses.mse, ("vis", "gen")),
    "grad_l1": (gradient_l1, ("vis", "gen")),
    "recon_5ssim_plus_mse": (recon, ("vis", "gen")),
    "cc_base": (correlation, ("base1", "base2")),
    "cc_detail": (correlation, ("detail1", "detail2")),
    "decomp": (apart, ("base1", "base2", "detail1", "detail2")),
    "fusion_total": (fusion, ("vis", "ir", "gen")),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_golden(name, dtype):
    loss, names = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        inputs = [jnp.asarray(np.moveaxis(GOLDEN[f"in:{n}"], 1, -1), dtype) for n in names]
        places = tuple(range(len(inputs)))
        both = jax.value_and_grad(lambda *x: ((y := loss(*x)).mean(), y), places, has_aux=True)
        (value, each), grads = jax.jit(both)(*inputs)
        assert each.shape == (2,)
        wanted = float(GOLDEN[f"scalar:{name}"])
        errors = [
            relative_error(g, np.moveaxis(GOLDEN[f"grad_in:{name}/{n}"], 1, -1))
            for n, g in zip(names, grads, strict=True)
        ]
        off = abs(float(value) / wanted - 1)
        print(f"{name} {dtype}: value {off:.1e}, gradients {max(errors):.1e} of the largest")
        assert off <= 1e-5
        assert max(errors) <= 1e-5


def test_parts_and_other_definitions():
    vis, ir, gen = (GOLDEN.nhwc(f"in:{n}") for n in ("vis", "ir", "gen"))
    later = dissimilarity(vis, gen, form="later").mean()
    wanted = float(GOLDEN["scalar:ssim_loss_later_library_definition"])
    assert abs(float(later) / wanted - 1) <= 1e-5
    paper = dissimilarity(vis, gen, form="paper")
    assert np.array_equal(paper, jax.jit(losses.ssim_loss)(vis, gen))
    intensity = jax.jit(losses.intensity)(gen, vis, ir).mean()
    assert abs(float(intensity) / float(GOLDEN["scalar:fusion_intensity"]) - 1) <= 1e-5
    gradient = (jax.jit(fusion_max)(gen, vis, ir).mean() - intensity) / 10
    assert abs(float(gradient) / float(GOLDEN["scalar:fusion_gradient"]) - 1) <= 1e-5
    strength = jax.jit(losses.sobel_strength)(vis)
    assert max_error(strength, np.moveaxis(GOLDEN["out:sobelxy_vis"], 1, -1)) <= 1e-6


def test_decomposition_by_pair_and_by_batch():
    names = ("base1", "base2", "detail1", "detail2")
    features = [GOLDEN.nhwc(f"in:{n}") for n in names]
    by_form = jax.jit(decomposition, static_argnames="form")
    released = by_form(*features)
    assert released[0] == released[1]
    paper = by_form(*features, form="paper")
    assert abs(float(paper.mean() - released[0])) > 1e-4
    singles = [by_form(*(x[i : i + 1] for x in features)) for i in (0, 1)]
    assert np.allclose(jnp.concatenate(singles), paper, rtol=1e-6)
    # Details that agree cost, bases that agree gain.
    same = by_form(features[0], features[0], *features[2:])
    opposed = by_form(features[0], -features[0], *features[2:])
    assert np.allclose(opposed / same, 2.01 / 0.01, rtol=1e-4)


def test_phases_are_the_sums_of_their_parts():
    vis, ir, gen = (GOLDEN.nhwc(f"in:{n}") for n in ("vis", "ir", "gen"))
    d = jnp.asarray([0.25, 0.5])

    def both(vis, ir, gen, form):
        s_vis = structural_dissimilarity(vis, gen, form=form)
        s_ir = structural_dissimilarity(ir, ir[:, ::-1], form=form)
        wanted = 5 * s_vis + losses.mse(vis, gen) + 5 * s_ir + losses.mse(ir, ir[:, ::-1]) + 2 * d
        if form == "released":
            wanted += 5 * gradient_l1(vis, gen)
        return reconstruction_phase(ir, vis, ir[:, ::-1], gen, d, form=form), wanted

    for form in FORMS:
        ours, wanted = jax.jit(both, static_argnames="form")(vis, ir, gen, form=form)
        assert np.allclose(ours, wanted, rtol=1e-6)
    second = jax.jit(fusion_phase)(gen, ir, vis, d)
    assert np.allclose(second, jax.jit(fusion_max)(gen, ir, vis) + 2 * d, rtol=1e-6)


@pytest.mark.unchecked
def test_edges_of_the_losses():
    x = GOLDEN.nhwc("in:vis")
    # Constant channels: no correlation and no gradient, where the formula divides by zero.
    flat = jnp.ones_like(x)
    alike = jax.jit(correlation)
    value, slope = jax.jit(jax.value_and_grad(lambda z: correlation(z, x).sum()))(flat)
    assert float(value) == 0.0
    assert not np.asarray(slope).any()
    assert np.allclose(alike(x, 3 * x + 1), 1.0, atol=1e-6)
    assert np.allclose(alike(x, -x), -1.0, atol=1e-6)
    # Opposite pictures have negative similarity nearly everywhere: half a unit, no slope left.
    grid = jnp.asarray(np.indices((12, 12)).sum(0) % 2, jnp.float32)[None, ..., None]
    slope = jax.value_and_grad(lambda z, other: structural_dissimilarity(z, other)[0])
    value, slope = jax.jit(slope)(grid, 1 - grid)
    assert abs(float(value) - 0.5) <= 1e-6
    assert not np.asarray(slope).any()
    assert float(dissimilarity(x, x).max()) <= 1e-6
    with pytest.raises(ValueError, match="at least 6 pixels"):
        structural_dissimilarity(x[:, :5], x[:, :5])
    with pytest.raises(ValueError, match="form is"):
        structural_dissimilarity(x, x, form="newest")
    with pytest.raises(ValueError, match="form is"):
        decomposition(x, x, x, x, form="newest")
    with pytest.raises(ValueError, match="shapes differ"):
        correlation(x, x[:1])
