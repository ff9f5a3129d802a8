"""Draws the results that the pages about depth, radiance and exposures show.

    python benchmarks/task_pictures.py [--depth FILE] [--hdr FILE] [--exposure FILE]

The scenes are those of `examples/`, so that anybody can make them again; the networks are the
bundled ones, or the files that are named. Pictures go to `docs/assets/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import depth as depth_example  # noqa: E402
import hdr as hdr_example  # noqa: E402

import mgdn_jax  # noqa: E402
from mgdn_jax.io import files  # noqa: E402
from mgdn_jax.io.previews import coloured  # noqa: E402
from mgdn_jax.quantities.depth import enlarge, reduce  # noqa: E402

ASSETS = ROOT / "docs" / "assets"
_GAP = 6


def row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures beside each other, white between them: (H, W, 3) uint8."""
    height = max(picture.shape[0] for picture in pictures)
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    parts: list[np.ndarray] = []
    for picture in pictures:
        below = np.full((height - picture.shape[0], picture.shape[1], 3), 255, np.uint8)
        parts += [np.concatenate([picture, below]), gap]
    return np.concatenate(parts[:-1], 1)


def depth_picture(model: str) -> np.ndarray:
    """A photograph, its map enlarged without it, and with it."""
    rgb, truth = depth_example.draw_scene()
    small = reduce(truth, 4)
    result = mgdn_jax.upsample_depth(small, rgb, unit="mm", model=model)
    limits = float(truth.min()), float(truth.max())
    shown = [coloured(values, *limits) for values in (enlarge(small, truth.shape), result.depth)]
    return row([rgb, *shown]).repeat(2, 0).repeat(2, 1)


def hdr_picture(model: str) -> np.ndarray:
    """Three exposures with a ball that rolls, and what they become."""
    bracket = hdr_example.make_bracket()
    merged = mgdn_jax.merge_exposures(bracket, ev=hdr_example.STOPS, model=model)
    return row([*bracket, merged.preview()])


def exposure_picture(model: str) -> np.ndarray:
    """The same exposures without the ball, and what they become on a screen."""
    bracket = hdr_example.make_bracket(has_ball=False)
    fused = mgdn_jax.load(model)(*bracket)
    return row([*bracket, np.asarray(fused)])


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", default="mgdn-gdsr4")
    parser.add_argument("--hdr", default="mgdn-hdr")
    parser.add_argument("--exposure", default="mgdn-mef")
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args(argv)
    for name, draw in (
        ("depth", depth_picture),
        ("hdr", hdr_picture),
        ("exposure", exposure_picture),
    ):
        files.write_image(arguments.out / f"{name}.jpg", draw(getattr(arguments, name)))


if __name__ == "__main__":
    main()
