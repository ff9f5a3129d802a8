import json

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.fusing import transforms
from mgdn_jax.fusing.transforms import Transform, common_area, covered, scaling

TILTED = [[1.02, 0.03, 4.0], [-0.02, 0.98, -7.0], [1e-4, -5e-5, 1.0]]
CORNERS = np.array([[0, 0], [159, 0], [0, 119], [159, 119]], float)


def test_a_transform_and_its_inverse_undo_each_other():
    tilted = Transform(TILTED)
    np.testing.assert_allclose(tilted.inverse().apply(tilted.apply(CORNERS)), CORNERS, atol=1e-9)
    assert np.abs(tilted.apply(CORNERS) - CORNERS).max() > 5


def test_composition_applies_the_other_one_first():
    tilted, moved = Transform(TILTED), Transform([[1, 0, 5], [0, 1, -3]])
    both = tilted.compose(moved).apply(CORNERS)
    np.testing.assert_allclose(both, tilted.apply(moved.apply(CORNERS)), atol=1e-9)
    assert np.abs(both - moved.apply(tilted.apply(CORNERS))).max() > 0.01


def test_the_corner_that_moves_most_counts():
    grown = Transform([[1.1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert grown.corner_shift((120, 160)) == pytest.approx(15.9)
    assert Transform.identity().corner_shift((120, 160)) == 0


def test_a_transform_of_reduced_pictures_fits_the_full_ones():
    small, full = (30, 40), (120, 160)
    tilted = Transform(TILTED)
    reduce, enlarge = scaling(full, small), scaling(small, full)
    expected = enlarge.apply(tilted.apply(reduce.apply(CORNERS)))
    np.testing.assert_allclose(tilted.scaled(small, full).apply(CORNERS), expected, atol=1e-9)
    # The outer edge of the first pixel stays where it is.
    np.testing.assert_allclose(enlarge.apply([-0.5, -0.5]), [-0.5, -0.5])


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(2),
        np.full((3, 3), np.nan),
        np.zeros((3, 3)),
        [[1, 2, 3], [2, 4, 6], [0, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
        [[1e-6, 0, 0], [0, 1e-6, 0], [0, 0, 1]],
    ],
)
def test_matrices_without_an_inverse_are_refused(matrix):
    with pytest.raises(InputError, match="a transform"):
        Transform(matrix)


def test_a_horizon_within_the_picture_is_refused():
    with pytest.raises(InputError, match="infinity"):
        covered(Transform([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]]), (120, 160), (120, 160))


# ------------------------------------------------------------------------------- areas


def brute_force(transform, moving, size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    back = transform.inverse().apply(np.stack([columns, rows], -1))
    inside = (back >= -1e-6) & (back <= [moving[1] - 1 + 1e-6, moving[0] - 1 + 1e-6])
    return inside.all(-1)


@pytest.mark.parametrize(
    "matrix",
    [
        TILTED,
        [[1, 0, 3], [0, 1, -2], [0, 0, 1]],
        [[0.9, -0.4, 20], [0.4, 0.9, -10], [0, 0, 1]],
        [[-1, 0, 49], [0, 1, 0], [0, 0, 1]],
    ],
)
def test_covered_pixels_lie_between_the_sources_own(matrix):
    transform = Transform(matrix)
    mask = covered(transform, (40, 50), (44, 60))
    np.testing.assert_array_equal(mask, brute_force(transform, (40, 50), (44, 60)))
    assert 0 < mask.sum() < mask.size


def test_a_move_by_whole_pixels_covers_exactly():
    mask = covered(Transform([[1, 0, 3], [0, 1, -2]]), (10, 12), (10, 12))
    expected = np.zeros((10, 12), bool)
    expected[:8, 3:] = True
    np.testing.assert_array_equal(mask, expected)


def largest(mask):
    """The area of the largest rectangle, by trying all."""
    whole = np.pad(np.cumsum(np.cumsum(~mask, 0), 1), ((1, 0), (1, 0)))
    best = 0
    for t in range(mask.shape[0]):
        for b in range(t + 1, mask.shape[0] + 1):
            for x in range(mask.shape[1]):
                holes = whole[b, x + 1 :] - whole[t, x + 1 :] - whole[b, x] + whole[t, x]
                widths = np.flatnonzero(holes == 0)
                best = max(best, (b - t) * (widths[-1] + 1) if widths.size else 0)
    return best


def area(box):
    return (box[1] - box[0]) * (box[3] - box[2])


def test_the_common_area_of_transforms_is_the_largest_rectangle():
    parts = [Transform(TILTED), Transform([[0.97, -0.1, 4], [0.1, 0.97, -3]]), Transform.identity()]
    size = (30, 40)
    box = common_area(parts, [size] * 3)
    mask = np.logical_and.reduce([covered(part, size, size) for part in parts])
    assert mask[box[0] : box[1], box[2] : box[3]].all()
    assert area(box) == largest(mask)


def test_the_common_area_of_masks_is_the_largest_rectangle():
    random = np.random.default_rng(3)
    mask = random.random((25, 30)) > 0.02
    box = common_area([mask, np.ones_like(mask)])
    assert mask[box[0] : box[1], box[2] : box[3]].all()
    assert area(box) == largest(mask)


def test_large_masks_are_searched_by_blocks_and_then_exactly():
    rows, columns = np.mgrid[:700, :900]
    mask = (columns > 40 + rows * 0.1) & (rows > 21) & (columns < 871) & (rows < 660)
    box = common_area([mask])
    assert mask[box[0] : box[1], box[2] : box[3]].all()
    best = max((660 - t) * (871 - int(np.floor(40 + 659 * 0.1)) - 1) for t in range(22, 23))
    assert area(box) >= 0.998 * best


def test_pictures_that_share_nothing_are_refused():
    away = Transform([[1, 0, 100], [0, 1, 0]])
    with pytest.raises(InputError, match="no area in common"):
        common_area([away, Transform.identity()], [(40, 50)] * 2)
    with pytest.raises(InputError, match="no area in common"):
        common_area([np.zeros((4, 5), bool)])


# ------------------------------------------------------------------------------- files


def test_transforms_written_and_read_are_equal(tmp_path):
    parts = {"01": Transform(TILTED), 2: Transform([[1, 0, 0.1], [0, 1, 1 / 3]])}
    transforms.write_transforms(tmp_path / "a.json", parts, (120, 160))
    read = transforms.read_transforms(tmp_path / "a.json")
    assert list(read) == ["01", 2]
    for name, part in parts.items():
        np.testing.assert_array_equal(read[name].matrix, part.matrix)
        assert read[name].sizes == ((120, 160), (120, 160))
    again = tmp_path / "b.json"
    transforms.write_transforms(again, read)
    assert again.read_text() == (tmp_path / "a.json").read_text()
    assert transforms.read_transforms(again) == read


def test_a_saved_transform_meets_only_pictures_of_its_sizes(tmp_path):
    transforms.write_transforms(tmp_path / "a.json", {0: Transform(TILTED)}, (120, 160))
    saved = transforms.read_transforms(tmp_path / "a.json")[0]
    saved.check_sizes((120, 160), (120, 160))
    with pytest.raises(InputError, match=r"my\.json was made for .* 160x120 .* meets 80x60"):
        saved.check_sizes((60, 80), (120, 160), "my.json")


def test_usual_files_of_matrices_are_read(tmp_path):
    matrix = np.array(TILTED)
    np.savetxt(tmp_path / "a.txt", matrix)
    np.savetxt(tmp_path / "commas.csv", matrix[:2], delimiter=",", header="affine")
    np.save(tmp_path / "a.npy", np.stack([np.eye(3), matrix]))
    np.savez(tmp_path / "a.npz", left=matrix)
    (tmp_path / "plain.json").write_text(json.dumps(TILTED))
    (tmp_path / "names.json").write_text(json.dumps({"H": TILTED}))
    numbers = ", ".join(str(n) for n in matrix.ravel())
    (tmp_path / "a.yml").write_text(
        "%YAML:1.0\n---\nH: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n"
        f"   data: [ {numbers} ]\n"
    )
    tilted = Transform(matrix)
    cases = {"a.txt": 0, "a.npy": 1, "a.npz": "left", "plain.json": 0, "names.json": "H"}
    for file, name in (cases | {"a.yml": "H"}).items():
        assert transforms.read_transforms(tmp_path / file)[name] == tilted, file
    affine = transforms.read_transforms(tmp_path / "commas.csv")[0]
    np.testing.assert_array_equal(affine.matrix[:2], matrix[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no numbers", "no transform that can be read"),
        (" ", "no transform that can be read"),
        ("[[true, 0, 0], [0, 1, 0], [0, 0, 1]]", "no transform that can be read"),
        ('{"H": [["1", 0, 0], [0, 1, 0], [0, 0, 1]]}', "no matrix of numbers"),
        ("1 2\n3 4", "shape"),
        ("1 0 0\n0 1 0\n0 0 0", "infinity"),
        ("{}", "no transform that can be read"),
        ('{"kind": "mgdn transforms"}', "no transform that can be read"),
        ('{"H": [[1, 2], "x"]}', "no matrix"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"bad\.txt: .*{message}"):
        transforms.read_transforms(path)
    with pytest.raises(InputError, match="does not exist"):
        transforms.read_transforms(tmp_path / "none.txt")
