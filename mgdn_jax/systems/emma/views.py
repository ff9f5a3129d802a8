"""The views of a picture that fusion is to commute with: shifted, turned and mirrored.

The stack of a batch has ten: the pictures, three cyclic shifts, turns by 10, 130 and 250 degrees,
and three mirror images. Shifts are drawn, the angles are fixed. Turned pictures are black where
nothing lies, and shifted ones have seams.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Image = Float[Array, "b h w c"]

SHIFTS = 3
ANGLES = (10.0, 130.0, 250.0)
COUNT = 1 + SHIFTS + len(ANGLES) + 3
"""Views in the stack."""


def draw_shifts(
    keys: Key[Array, " b"] | None, count: int, height: int, width: int
) -> Int[Array, "b shifts 2"]:
    """Rows and columns that pictures are shifted by: none is 0, none comes twice.

    Args:
        keys: a key for every picture; without them the shifts are quarters of the sides.
        count: number of pictures.
        height: of the pictures.
        width: likewise.
    """
    if keys is None:
        parts = jnp.arange(1, SHIFTS + 1)
        fixed = jnp.stack([parts * side // (SHIFTS + 1) for side in (height, width)], -1)
        return jnp.broadcast_to(fixed[None], (count, SHIFTS, 2))

    def of_picture(key: Key[Array, ""]) -> Array:
        drawn = []
        for own, side in zip(jax.random.split(key), (height, width), strict=True):
            steps = np.arange(1, side)
            both = jnp.asarray(np.concatenate([-steps, steps]))
            drawn.append(jax.random.choice(own, both, (SHIFTS,), replace=False))
        return jnp.stack(drawn, -1)

    return jax.vmap(of_picture)(keys)


def shifted(x: Image, shifts: Int[Array, "b 2"]) -> Image:
    """Every picture, cyclically shifted by rows and columns of its own."""

    def roll(picture: Array, shift: Array) -> Array:
        for axis in (0, 1):
            n = picture.shape[axis]
            places = (jnp.arange(n) - shift[axis]) % n
            picture = jnp.take(picture, places, axis=axis)
        return picture

    return jax.vmap(roll)(x, shifts)


@functools.lru_cache(maxsize=32)
def _taps(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (4, h w) in the flat picture and weights (4, h w) of what turned pixels are made of.

    Computed in float64: a pixel on the border is inside or it is not.
    """
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    cy, cx = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[:height, :width]
    from_x = cx + cosine * (x - cx) - sine * (y - cy)
    from_y = cy + sine * (x - cx) + cosine * (y - cy)
    left, top = np.floor(from_x), np.floor(from_y)
    places, weights = [], []
    for dy, dx in itertools.product((0, 1), repeat=2):
        row, column = (top + dy).astype(int), (left + dx).astype(int)
        weight = (1 - np.abs(from_y - row)) * (1 - np.abs(from_x - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weights.append(np.where(inside, weight, 0).ravel())
        places.append(np.where(inside, row * width + column, 0).ravel())
    return np.stack(places), np.stack(weights)


def turned(x: Image, degrees: float) -> Image:
    """Pictures turned counter-clockwise about their middle, bilinear, black outside.

    Taps outside count as black, so that the border fades.
    """
    b, h, w, c = x.shape
    places, weights = _taps(h, w, float(degrees))
    flat = x.reshape(b, h * w, c)
    total = jnp.zeros_like(flat)
    for place, weight in zip(places, weights, strict=True):
        total = total + flat[:, place] * jnp.asarray(weight, x.dtype)[None, :, None]
    return total.reshape(b, h, w, c)


def mirrored(x: Image) -> list[Image]:
    """Left-right, upside down, both."""
    return [x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1]]


def stack(x: Image, shifts: Int[Array, "b shifts 2"]) -> Float[Array, "v h w c"]:
    """All views of a batch, one view of all pictures after the other.

    Args:
        x: pictures.
        shifts: rows and columns for each picture, as `draw_shifts` makes them.
    """
    views = [x, *(shifted(x, shifts[:, i]) for i in range(shifts.shape[1]))]
    return jnp.concatenate([*views, *(turned(x, angle) for angle in ANGLES), *mirrored(x)])


def draw_views(keys: Key[Array, " b"], count: int) -> Int[Array, "b count"]:
    """Which views each picture has: itself first, then others, none of them twice.

    Args:
        keys: a key for every picture, which may have drawn its shifts.
        count: number of views of each, 1 to `COUNT`.
    """

    def of_picture(key: Key[Array, ""]) -> Array:
        # Not `fold_in(key, 1)`: that is one of the two keys which `draw_shifts` splits off.
        own = jax.random.split(key, 3)[2]
        others = jax.random.choice(own, jnp.arange(1, COUNT), (count - 1,), replace=False)
        return jnp.concatenate([jnp.zeros(1, others.dtype), others])

    return jax.vmap(of_picture)(keys)


def pick(
    views: Float[Array, "v h w c"], chosen: Int[Array, "b count"]
) -> Float[Array, "chosen h w c"]:
    """Some views of each picture, the first ones of all pictures first.

    Args:
        views: as `stack` makes them.
        chosen: as `draw_views` makes them.
    """
    b = len(chosen)
    places = chosen.T * b + jnp.arange(b)[None]
    return views[places.reshape(-1)]
