"""LKC-FUNet's losses against the original: values, gradients, the terms' parts; their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error

from mgdn_jax import losses
from mgdn_jax.systems.lkc_funet.losses import ssim_both, ssim_padded

GOLDEN = Golden("lkc_funet_losses")
TERMS = {"l_in": losses.intensity, "l_grad": losses.sobel_max, "l_ssim": ssim_both}
TERMS["total"] = lambda *images: sum(TERMS[name](*images) for name in ("l_in", "l_grad", "l_ssim"))


@pytest.mark.parametrize("case", ["main", "tiny", "tie"])
def test_golden(case):
    fused, mri, other = (GOLDEN.nhwc(f"in:{case}.{n}") for n in ("fused", "mri", "other"))

    def both(fused):
        return {n: jax.value_and_grad(lambda f, t=t: t(f, mri, other).mean())(fused)
                for n, t in TERMS.items()}  # fmt: skip

    for name, (value, grad) in jax.jit(both)(fused).items():
        wanted = float(GOLDEN[f"scalar:{case}.{name}"])
        off = abs(float(value) - wanted) / max(abs(wanted), 1e-12)
        slope = np.moveaxis(GOLDEN[f"grad:{case}.{name}.fused"], 1, -1)
        scale = float(np.abs(slope).max())
        error = max_error(grad, slope) / (scale or 1.0)
        print(f"{case} {name}: value {off:.1e}, gradient {error:.1e} of the largest")
        assert off <= 1e-6
        if case != "tie" or name in ("l_in", "l_ssim"):  # ties are decided by rounding
            assert error <= 1e-5


def test_parts():
    fused, mri, other = (GOLDEN.nhwc(f"in:main.{n}") for n in ("fused", "mri", "other"))
    strength = np.moveaxis(GOLDEN["mid:main.sobel_mri"], 1, -1)
    assert relative_error(jax.jit(losses.sobel_strength)(mri), strength) <= 1e-6
    ssim = jax.jit(ssim_padded)
    for name, source in (("mri", mri), ("other", other)):
        value = float(ssim(source, fused).mean())
        assert abs(value - float(GOLDEN[f"scalar:main.ssim_{name}_fused"])) <= 1e-6
    assert jax.eval_shape(ssim_both, fused, mri, other).shape == (2,)
    assert np.allclose(ssim(mri, mri), 1.0, atol=1e-6)


@pytest.mark.unchecked
def test_edges():
    one = jnp.zeros((1, 1, 1, 1))
    assert np.allclose(jax.jit(ssim_padded)(one, one), 1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        ssim_both(one, one, jnp.zeros((1, 1, 2, 1)))
