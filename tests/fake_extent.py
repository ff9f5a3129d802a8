"""`fake_fusion`, plain, with a network that can leave out what a picture is padded with."""

from typing import ClassVar

import fake_fusion
import jax.numpy as jnp

from mgdn_jax.layers.padding import zeroed

Config, PRESETS, RULES, PUBLISHED = (
    getattr(fake_fusion, name) for name in ("Config", "PRESETS", "RULES", "PUBLISHED")
)


class Network(fake_fusion.Network):
    """Takes the statistics of the picture alone; beyond it the result is not a number."""

    takes: ClassVar[frozenset[str]] = frozenset({"context", "extent"})

    def __call__(self, *images, context=None, pixel_weights=None, extent=None):
        if extent is not None and pixel_weights is None:
            pixel_weights = jnp.ones_like(images[0][..., :1])
        if pixel_weights is not None:
            pixel_weights = zeroed(pixel_weights, extent)
        fused, aux = super().__call__(
            *(zeroed(image, extent) for image in images),
            context=context,
            pixel_weights=pixel_weights,
        )
        return fused, aux
