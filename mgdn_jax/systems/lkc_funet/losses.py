"""LKC-FUNet: structural similarity to both sources, on images in [-1, 1]."""

import jax.numpy as jnp

from mgdn_jax.image import gaussian_window
from mgdn_jax.losses import Image, PerExample, same_shape, ssim_map

# ---- LKC-FUNet: three terms on images in [-1, 1] -------------------------------------------------


def ssim_padded(x: Image, y: Image) -> PerExample:
    """Mean structural similarity at every pixel, black (0) around the images, any size.

    As in SwinFusion's code: the window is cut off by the border without being scaled up, the
    constants are those of data range 1 whatever the range, and variances may come out negative in
    flat regions.
    """
    same_shape(x, y)
    taps = [float(t) for t in gaussian_window(11, 1.5)]
    x, y = (jnp.pad(z, ((0, 0), (5, 5), (5, 5), (0, 0))) for z in (x, y))
    return jnp.mean(ssim_map(x, y, taps), (1, 2, 3))


def ssim_both(fused: Image, a: Image, b: Image) -> PerExample:
    """``1 - (s(a, f) + s(b, f)) / 2`` with s the `ssim_padded`."""
    same_shape(fused, a, b)
    twice = ssim_padded(jnp.concatenate([a, b]), jnp.concatenate([fused, fused]))
    return 1.0 - jnp.mean(twice.reshape(2, -1), 0)
