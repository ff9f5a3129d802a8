"""Makes the example pair: one photograph, once focused on the cup, once on what lies behind it.

    pip install scikit-image
    python examples/make_coffee_pair.py

The photograph is scikit-image's `data.coffee()` (CC0, see README.md). The outline of the cup was
drawn by hand. Defocus is a disk, as a lens makes it. The two pictures obey what a lens does at a
depth edge: a blurred cup spreads over the sharp table behind it, while a blurred table ends at the
sharp cup and never bleeds into it.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.signal import fftconvolve
from skimage import data

HERE = Path(__file__).parent
RADIUS = 5.0
RIM = (173, 17, 409, 208)  # bounding box of the outer rim, an ellipse
# fmt: off
BODY = [
    (173, 112), (175, 140), (181, 170), (190, 198), (203, 222), (219, 238), (205, 254),
    (197, 275), (196, 290), (203, 302), (217, 307), (233, 304), (243, 292), (251, 281),
    (272, 285), (298, 286), (322, 280), (328, 267), (348, 247), (372, 230), (388, 200),
    (401, 165), (409, 112),
]
# fmt: on


def disk(radius: float) -> np.ndarray:
    """A disk with a soft edge, summing to one."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0)
    return kernel / kernel.sum()


def blur(plane: np.ndarray) -> np.ndarray:
    """One plane out of focus; the border is mirrored."""
    reach = int(np.ceil(RADIUS))
    padded = np.pad(plane, reach, mode="symmetric")
    return fftconvolve(padded, disk(RADIUS), mode="valid")


def cup_matte(height: int, width: int) -> np.ndarray:
    """How much of each pixel is cup, 0 to 1, drawn four times finer than the picture."""
    mask = Image.new("L", (4 * width, 4 * height))
    draw = ImageDraw.Draw(mask)
    draw.ellipse([4 * v for v in RIM], fill=255)
    draw.polygon([(4 * x, 4 * y) for x, y in BODY], fill=255)
    small = np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float64) / 255.0
    return gaussian_filter(small, 0.7)


def behind(image: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The table alone: under the cup goes on what is nearest to it, so that blur finds no cup."""
    hidden = matte > 0.02
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return image[rows, columns]


def main() -> None:
    """Writes coffee_near.jpg and coffee_far.jpg beside this file."""
    # The photograph is gamma-encoded, and light adds up in linear intensities.
    image = (data.coffee() / 255.0) ** 2.2
    matte = cup_matte(*image.shape[:2])[..., None]
    planes = range(3)
    table = behind(image, matte[..., 0])
    soft_table = np.stack([blur(table[..., c]) for c in planes], -1)
    near = matte * image + (1.0 - matte) * soft_table
    soft_matte = blur(matte[..., 0])[..., None]
    soft_cup = np.stack([blur(matte[..., 0] * image[..., c]) for c in planes], -1)
    far = soft_cup + (1.0 - soft_matte) * table
    for name, picture in (("near", near), ("far", far)):
        pixels = np.rint(np.clip(picture, 0.0, 1.0) ** (1 / 2.2) * 255.0).astype(np.uint8)
        Image.fromarray(pixels).save(HERE / f"coffee_{name}.jpg", quality=92)


if __name__ == "__main__":
    main()
