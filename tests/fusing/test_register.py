import numpy as np
import pytest
from scipy import ndimage

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import register, resampling
from mgdn_jax.fusing.transforms import Transform

SIZE = (200, 260)


def scene(seed=0, size=SIZE):
    random = np.random.default_rng(seed)
    x = sum(ndimage.gaussian_filter(random.normal(size=size), s) * s for s in (2, 4, 9))
    x = (x - x.min()) / np.ptp(x)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for _ in range(25):
        y, c, radius = random.integers(size[0]), random.integers(size[1]), random.integers(6, 26)
        x[(rows - y) ** 2 + (columns - c) ** 2 < radius**2] = random.random()
    return x.astype(np.float32)


def infrared(picture, transform, size):
    """What a second camera sees: inverted, with another curve, noisy; `transform` lays it back."""
    seen, _ = resampling.warp(picture, transform.inverse(), size)
    noise = np.random.default_rng(1).normal(0, 0.02, size)
    return np.clip((1 - seen) ** 1.7 + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        ([[1.3, 0, 40], [0, 1.3, 22], [0, 0, 1]], (110, 140)),
        ([[0.9, -0.03, 12], [0.03, 0.9, 5], [0, 0, 1]], (200, 260)),
    ],
)
def test_an_inverted_scaled_crop_is_laid_back(transform, size):
    true = Transform(transform)
    visible = scene()
    found = register.register((255 * infrared(visible, true, size)).astype(np.uint8), visible)
    bottom, right = size[0] - 1, size[1] - 1
    corners = np.array([[0, 0], [right, 0], [0, bottom], [right, bottom]])
    seen = true.apply(corners)
    inside = ((seen >= 0) & (seen < SIZE[::-1])).all(-1)
    error = np.linalg.norm(found.transform.apply(corners) - seen, axis=1)
    assert inside.any()
    assert error.max() < 1
    assert found.transform.sizes == (size, SIZE)
    assert found.score > 0.4


def test_other_scenes_are_refused_with_the_way_out():
    moved = Transform([[1.3, 0, 40], [0, 1.3, 22], [0, 0, 1]])
    with pytest.raises(InputError, match=r"cannot be registered: .*--homography FILE"):
        register.register(infrared(scene(5), moved, (110, 140)), scene(6))


def test_flat_and_tiny_pictures_are_refused():
    with pytest.raises(InputError, match="cannot be registered"):
        register.register(np.full((100, 120), 0.5, np.float32), scene())
    with pytest.raises(InputError, match="too small"):
        register.register(scene()[:6, :6], scene())


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], "mirrors"),
        ([[9, 0, 0], [0, 9, 0], [0, 0, 1]], "scales by 9"),
        ([[0.7, -0.7, 0], [0.7, 0.7, 0], [0, 0, 1]], "turns by 45"),
        ([[1.5, 0, 0], [0, 1, 0], [0, 0, 1]], "stretches"),
        ([[1.1, 0.05, 3], [-0.05, 1, 9], [0, 0, 1]], None),
    ],
)
def test_transforms_that_no_rig_makes_are_refused(matrix, reason):
    plane = np.zeros(SIZE, np.float32)
    doubt = register._shape_doubt(np.array(matrix, float), plane, plane)
    assert (doubt is None) if reason is None else (reason in doubt)
