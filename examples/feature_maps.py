"""Shows what CDDFuse takes a pair apart into: base and detail features of both sources.

    python examples/feature_maps.py cddfuse-ivf ir.png vi.png -o features.png

Rows are the first source, the second, and what is fused of them; columns the picture, the base
features and the detail features (root mean square over channels, each kind on one scale for both
sources). Where the decomposition does its work, base maps of the two look alike, and details do
not: the correlations printed are those of the training loss.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mgdn_jax
from mgdn_jax import image
from mgdn_jax.fusing.sources import Sources
from mgdn_jax.io import files
from mgdn_jax.io.pixels import from_float, to_float, without_alpha
from mgdn_jax.layers import functional
from mgdn_jax.systems import registry
from mgdn_jax.systems.cddfuse.losses import correlation

GAP = 4


def features(
    fuser: mgdn_jax.Fuser, a: Any, b: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Maps and correlations of a pair.

    Args:
        fuser: a CDDFuse network.
        a: first source, path or array as a `Fuser` takes it.
        b: second source.

    Returns:
        ``{"pictures", "base", "detail"}``, each (3, H, W) with the first source, the second, and
        what was fused of both; and the correlations ``{"base", "detail"}`` between the sources.

    Raises:
        InputError: the network is no CDDFuse.
    """
    if fuser.system != "cddfuse":
        raise mgdn_jax.InputError(f"the network is a {fuser.system}; give a CDDFuse network.")
    pictures = [without_alpha(source.pixels) for source in Sources([a, b])]
    planes = [jnp.asarray(image.luminance(to_float(x)))[None] for x in pictures]
    graphdef = registry.abstract("cddfuse", fuser.config)[0]

    @jax.jit
    def look(params: Any, a: jax.Array, b: jax.Array) -> tuple[Any, Any]:
        (fused, aux), _ = functional.apply(graphdef, params, {}, a, b)
        maps = {"pictures": jnp.stack([a[0, ..., 0], b[0, ..., 0], fused[0, ..., 0]])}
        alike = {}
        for kind in ("base", "detail"):
            three = jnp.concatenate([aux[kind][:, 0], aux[f"{kind}_fused"]])
            maps[kind] = jnp.sqrt(jnp.mean(jnp.square(three.astype(jnp.float32)), -1))
            alike[kind] = correlation(*aux[kind].astype(jnp.float32))[0]
        return maps, alike

    maps, alike = look(fuser.params, *planes)
    return {k: np.asarray(v) for k, v in maps.items()}, {k: float(v) for k, v in alike.items()}


def sheet(maps: dict[str, np.ndarray]) -> np.ndarray:
    """All maps on one picture, (3 H + 2 gaps, 3 W + 2 gaps) uint8."""
    columns: Sequence[np.ndarray] = [maps["pictures"]]
    for kind in ("base", "detail"):
        sources, fused = maps[kind][:2], maps[kind][2:]
        columns = [*columns, np.concatenate([_spread(sources), _spread(fused)])]
    height, width = maps["pictures"].shape[1:]
    page = np.ones((3 * height + 2 * GAP, 3 * width + 2 * GAP), np.float32)
    for j, column in enumerate(columns):
        for i, tile in enumerate(column):
            top, left = i * (height + GAP), j * (width + GAP)
            page[top : top + height, left : left + width] = tile
    return from_float(page, np.dtype(np.uint8))


def _spread(maps: np.ndarray) -> np.ndarray:
    """From the 1st to the 99th percentile: single pixels do not set the scale."""
    low, high = np.percentile(maps, (1, 99))
    return np.clip((maps - low) / max(high - low, 1e-12), 0, 1)


def main() -> None:
    """Writes the picture and prints the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or .safetensors file of a CDDFuse network")
    parser.add_argument("a", help="infrared (CT, PET, SPECT)")
    parser.add_argument("b", help="visible (MRI)")
    parser.add_argument("-o", "--output", default="features.png")
    told = parser.parse_args()
    maps, alike = features(mgdn_jax.load(told.model), told.a, told.b)
    files.write_image(told.output, sheet(maps))
    size = "x".join(map(str, maps["base"].shape[:0:-1]))
    print(f"{os.fspath(told.output)}: {size}, correlation of base features {alike['base']:.3f},"
          f" of detail features {alike['detail']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
