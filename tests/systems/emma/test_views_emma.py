"""EMMA's loss, its views and its patches against the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, max_error, relative_error
from helpers import last, noise

from mgdn_jax.image import luminance
from mgdn_jax.losses import gradient_l1, l1
from mgdn_jax.systems.emma import patches, views
from mgdn_jax.systems.emma.losses import likeness


@pytest.mark.parametrize(
    ("name", "loss"), [("intensity", l1), ("gradient", gradient_l1), ("total", likeness)]
)
def test_losses_with_both_gradients(name, loss):
    """One patch has exact ties, where the gradient is 0."""
    golden = Golden("emma_losses")
    x, y = (golden.nhwc(f"in:{k}") for k in ("pre", "target"))
    value, grads = jax.jit(jax.value_and_grad(lambda x, y: jnp.mean(loss(x, y)), (0, 1)))(x, y)
    wanted = float(golden[f"scalar:{name}"])
    off = [
        relative_error(g, last(golden[f"grad_in:{name}/{k}"]))
        for g, k in zip(grads, ("pre", "target"), strict=True)
    ]
    print(f"{name}: value off by {abs(float(value) / wanted - 1):.1e}, gradients by {max(off):.1e}")
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    assert max(off) <= 1e-5


def test_the_stack_of_views():
    golden = Golden("emma_transforms")
    x = golden.nhwc("in:square/x")
    shifts = np.stack([golden[f"in:square/shift_{k}"] for k in ("rows", "cols")], -1)
    made = views.stack(x, jnp.broadcast_to(jnp.asarray(shifts)[None], (2, 3, 2)))
    assert len(made) == views.COUNT * len(x)
    wanted = last(golden["out:square/apply"])
    exact = [0, 1, 2, 3, 4, 5, 6, 7, *range(14, 20)]  # all but the turned ones
    np.testing.assert_array_equal(made[np.array(exact)], wanted[exact])
    # The original's sampling grid is of single precision.
    error = max_error(made, wanted)
    print(f"turned views off by {error:.1e}")
    assert error <= 1e-5


def test_a_quarter_turn_moves_pixels():
    x = noise(1, 5, 5, 1)
    np.testing.assert_allclose(views.turned(x, 90), jnp.rot90(x, axes=(1, 2)), atol=1e-6)
    # Black where nothing lies, and the gradient goes where values come from.
    cotangent = noise(1, 6, 9, 1, seed=1)
    wide = noise(1, 6, 9, 1, seed=2)
    forward = jnp.sum(views.turned(wide, 10) * cotangent)
    backward = jax.grad(lambda x: jnp.sum(views.turned(x, 10) * cotangent))(wide)
    assert float(forward) == pytest.approx(float(jnp.sum(backward * wide)), rel=1e-5)
    assert float(views.turned(jnp.ones((1, 9, 9, 1)), 45)[0, 0, 0, 0]) == 0


def test_shifts_are_drawn_for_each_picture():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(200))
    drawn = np.asarray(jax.jit(lambda keys: views.draw_shifts(keys, 200, 5, 4))(keys))
    assert drawn.shape == (200, 3, 2)
    for axis, side in enumerate((5, 4)):
        steps = drawn[..., axis]
        assert set(np.unique(steps)) == {*range(1 - side, 0), *range(1, side)}
        assert all(len(set(row)) == 3 for row in steps)
    # However a batch is laid out: each picture has its own key.
    np.testing.assert_array_equal(views.draw_shifts(keys[7:9], 2, 5, 4), drawn[7:9])
    assert len({tuple(row.ravel()) for row in drawn}) > 150
    fixed = views.draw_shifts(None, 2, 8, 16)
    np.testing.assert_array_equal(fixed[1], [[2, 4], [4, 8], [6, 12]])


def test_views_are_drawn_for_each_picture():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(4), jnp.arange(50))
    chosen = np.asarray(views.draw_views(keys, 4))
    assert (chosen[:, 0] == 0).all()
    assert all(len(set(row)) == 4 for row in chosen)
    assert set(np.unique(chosen)) == set(range(views.COUNT))
    x = noise(2, 6, 6, 1)
    every = views.stack(x, views.draw_shifts(None, 2, 6, 6))
    some = views.pick(every, jnp.asarray([[0, 9, 4], [0, 2, 7]]))
    np.testing.assert_array_equal(some[:2], x)
    np.testing.assert_array_equal(some[2], x[0, ::-1, ::-1])
    np.testing.assert_array_equal(some[3], every[2 * 2 + 1])


def test_views_say_nothing_of_the_shifts():
    """Two draws from one key: which views a picture has, and by how much it is shifted."""
    keys = jax.random.split(jax.random.key(0), 4000)
    columns = np.asarray(views.draw_shifts(keys, 4000, 4, 4))[:, 0, 1]
    chosen = (np.asarray(views.draw_views(keys, 3)) == 1).any(1)
    rates = [[(columns[these] == n).mean() for n in range(1, 4)] for these in (chosen, ~chosen)]
    assert np.abs(np.subtract(*rates)).max() <= 0.07  # 0.41 where both draw from one key


def test_patches_and_what_is_flat():
    golden = Golden("emma_data_prep")
    made = [patches.is_flat(x) for x in golden["in:synthetic"]]
    assert made == golden["out:synthetic_low"].tolist()
    rgb = golden["in:first/vis_rgb_patch5_hwc"].astype(np.float32) / 255
    error = max_error(luminance(rgb)[..., 0], golden["out:first/vis_patch5_corner"])
    print(f"luminance off by {error:.1e}")
    assert error <= 1e-7
    assert list(patches.corners(480, 640)) == [(r, c) for r in (0, 200) for c in (0, 200, 400)]
    assert patches.cut(np.zeros((127, 640))).shape == (0, 128, 128)
    picture = np.arange(330 * 130).reshape(330, 130)
    np.testing.assert_array_equal(patches.cut(picture)[1], picture[200:328, :128])
