import numpy as np
import pytest

from mgdn_jax.fusing import assembly, tiling
from mgdn_jax.fusing.options import FuseOptions


@pytest.mark.parametrize(
    ("length", "size", "overlap", "grid"),
    [
        (8, 16, 4, 4),
        (100, 32, 8, 4),
        (96, 32, 0, 4),
        (36, 32, 28, 4),
        (520, 512, 64, 8),
        (5, 2, 1, 1),
    ],
)
def test_weights_sum_to_one_and_every_position_is_owned_once(length, size, overlap, grid):
    axis = tiling.cut(length, size, overlap, grid)
    total, owned = np.zeros(length), np.zeros(length)
    for start, weights, mine in zip(axis.starts, axis.weights, axis.owned, strict=True):
        assert start % grid == 0
        total[start : start + axis.size] += weights
        owned[start : start + axis.size] += mine
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    np.testing.assert_array_equal(owned, 1.0)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size == length
    assert axis.size == min(size, length)
    shared = [a + axis.size - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert all(n >= overlap for n in shared)


def test_a_piece_counts_least_at_its_inner_border():
    axis = tiling.cut(96, 64, 32, 4)
    assert axis.weights[0, 0] == 1.0
    assert axis.weights[0, -1] < 0.01
    assert np.all(np.diff(axis.weights[0]) <= 0)


@pytest.mark.parametrize("length", [512, 1040, 1304, 4008, 6008])
def test_even_pieces_need_no_more_of_them(length):
    size = tiling.even_size(length, 512, 64, 8)
    assert size <= 512
    assert size % 8 == 0
    before, after = (len(tiling.cut(length, n, 64, 8).starts) for n in (512, size))
    assert after == before


@pytest.mark.parametrize(("length", "padded"), [(1, 1), (1, 8), (3, 8), (7, 8), (8, 16), (9, 12)])
def test_extend_pads_as_numpy_does(length, padded):
    line = np.arange(length) + 10
    grow = (0, padded - length)
    symmetric = line[tiling.extend(length, padded, "symmetric")]
    np.testing.assert_array_equal(symmetric, np.pad(line, grow, "symmetric"))
    mode = "reflect" if grow[1] < length else "edge"
    reflected = line[tiling.extend(length, padded, "reflect")]
    np.testing.assert_array_equal(reflected, np.pad(line, grow, mode))


def test_impossible_cuts_and_modes_raise():
    for arguments in ((10, 8, 2, 4), (16, 10, 2, 4), (16, 8, 8, 4), (16, 8, -1, 4)):
        with pytest.raises(ValueError, match="cannot cut"):
            tiling.cut(*arguments)
    with pytest.raises(ValueError, match="unknown padding"):
        tiling.extend(4, 8, "wrap")


def test_pixels_without_weight_are_not_summed_nor_tiles_of_them_measured():
    picture = np.random.default_rng(0).random((40, 60, 1))
    weights = np.ones((40, 60))
    weights[:, :38] = 0
    plan = tiling.plan(40, 60, FuseOptions(tile=16, overlap=4), grid=4)
    measured, ticks = [], []

    def measure(tile, owned):
        measured.append(owned.sum())
        return {"sum": (tile[0][..., 0] * owned).sum(), "count": owned.sum()}

    total = assembly.sums([picture], plan, measure, lambda: ticks.append(1), weights)
    assert all(measured)
    assert len(measured) < len(ticks) == plan.tiles
    assert total["count"] == weights.sum()
    np.testing.assert_allclose(total["sum"], (picture[..., 0] * weights).sum(), rtol=1e-6)
