"""Folders whose pictures belong together: the listing, subfolders, sentences."""

import numpy as np
import pytest

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import codec, files, pairing

TINY = codec.encode_png(np.zeros((2, 2), np.uint8))


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TINY)


@pytest.fixture
def folders(tmp_path):
    """A maker of two folders from a pattern each."""

    def make(*patterns, count=3):
        places = [tmp_path / name for name in ("ir", "vi", "gt")[: len(patterns)]]
        for place, pattern in zip(places, patterns, strict=True):
            touch(*(place / pattern.format(k + 1) for k in range(count)))
        return places

    return make


def test_folders_are_matched_by_stem(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, names in ((a, ("s10.png", "s9.png", "only.png")), (b, ("s9.tif", "s10.png"))):
        touch(*(folder / name for name in names), folder / ".hidden.png")
        (folder / "notes.txt").touch()
    pairs = pairing.pair_folders([a, b])
    assert list(pairs.groups) == ["s9", "s10"]
    assert pairs.groups["s9"] == (a / "s9.png", b / "s9.tif")
    assert pairs.gaps == {"only": (str(b),)}
    assert pairs.lonely == {"only": a / "only.png"}
    assert pairs.rule == ""
    assert pairs.problems == [f"only has no partner in {b}."]
    assert pairing.no_partner("only", pairs.gaps["only"]) == f"only has no partner in {b}."
    touch(a / "s9.bmp")
    with pytest.raises(InputError, match=r"holds both s9\.bmp and s9\.png"):
        pairing.pair_folders([a, b])


def test_folders_that_cannot_be_matched(tmp_path):
    touch(tmp_path / "a" / "x.png", tmp_path / "b" / "y.png")
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="has the same name"):
        pairing.pair_folders([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="holds no image"):
        pairing.list_images(tmp_path / "c")
    with pytest.raises(InputError, match="holds no image"):
        pairing.pair_folders([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(InputError, match="does not exist"):
        pairing.list_images(tmp_path / "d")
    with pytest.raises(InputError, match="cannot be listed"):
        pairing.list_images(tmp_path / "a" / "x.png")


@pytest.mark.parametrize(
    ("patterns", "keys", "rule"),
    [
        (("{}_ir.png", "{}_vis.png"), "123", "without 'ir' and 'vis' (1_ir.png with 1_vis.png)"),
        (("LWIR-{}.tif", "RGB-{}.jpg"), "123", "without 'lwir' and 'rgb' (LWIR-1.tif with RGB"),
        (("S{}.PNG", "s{}.png"), ("S1", "S2", "S3"), "without regard to capitals and Unicode form"),
        (("d/{}.png", "d/{}.png"), ("d/1", "d/2", "d/3"), "in mirrored subfolders (d/1.png with"),
        (("d/e/{}i.png", "d/e/{}v.png"), ("d/e/1", "d/e/2", "d/e/3"), "subfolders, without 'i'"),
        (("{}.fused.png", "{}.v.png"), "123", "without 'fused' and 'v'"),
        (("{}.png", "x{}y.png"), None, ""),
    ],
)
def test_rules_are_said_and_name_the_results(folders, patterns, keys, rule):
    places = folders(*patterns)
    if keys is None:
        with pytest.raises(
            InputError, match=r"ir/1\.png and .*vi/x1y\.png do not say.*; give partners"
        ):
            pairing.pair_folders(places)
        return
    pairs = pairing.pair_folders(places)
    assert list(pairs.groups) == list(keys)
    assert pairs.gaps == {}
    assert pairs.rule.startswith("pictures are paired by name ")
    assert rule in pairs.rule
    for k, (key, paths) in enumerate(pairs.groups.items()):
        wanted = [p / x.format(k + 1) for p, x in zip(places, patterns, strict=True)]
        assert list(paths) == wanted
        assert pairs.targets("out")[key].as_posix() == f"out/{key}.png"


def test_dots_in_names_and_suffixes_of_two_parts(tmp_path):
    touch(*(tmp_path / f / n for f in "ab" for n in ("a.b.png", "a.c.png", "scan.nii.gz")))
    pairs = pairing.pair_folders([tmp_path / "a", tmp_path / "b"])
    assert list(pairs.groups) == ["a.b", "a.c", "scan"]
    names = [target.name for target in pairs.targets("out").values()]
    assert names == ["a.b.png", "a.c.png", "scan.png"]


def test_subfolders_are_walked_once_and_hidden_ones_left_out(tmp_path, folders):
    ir, vi = folders("day/{}.png", "day/{}.png")
    touch(ir / "night" / "1.png", vi / "night" / "1.png", ir / "night" / "2.png")
    touch(ir / ".trash" / "1.png", ir / "top.png")
    (ir / "day" / "loop").symlink_to(ir, target_is_directory=True)
    pairs = pairing.pair_folders([ir, vi])
    assert list(pairs.groups) == ["day/1", "day/2", "day/3", "night/1"]
    assert pairs.gaps == {"night/2": (str(vi),), "top": (str(vi),)}
    assert list(pairing.list_images(ir)) == ["top"]
    assert list(pairing.list_images(ir, nested=True))[:2] == ["day/1", "day/2"]


def test_subfolders_beside_pictures_are_named(folders):
    places = folders("{}.png", "{}.png")
    for place in places:
        touch(place / "night" / "1.png")
        (place / "empty").mkdir()
    touch(places[0] / "out" / "1.png")  # of one folder alone: results, for instance
    with pytest.warns(FusionWarning, match=r"subfolders \(night\), of which .* are left out; name"):
        pairs = pairing.pair_folders(places)
    assert list(pairs.groups) == ["1", "2", "3"]
    assert pairs.rule == "subfolders beside pictures are left out: night"


def test_three_folders_and_a_partner_that_two_lack(folders):
    places = folders("{}_ir.png", "{}_vis.png", "{}_gt.png")
    (places[2] / "2_gt.png").unlink()
    touch(
        *(
            place / f"{k}_{w}.png"
            for place, w in zip(places, ("ir", "vis", "gt"), strict=True)
            for k in range(4, 9)
        )
    )
    pairs = pairing.pair_folders(places)
    assert len(pairs.groups) == 7
    assert pairs.gaps == {"2_ir": (str(places[2]),)}


def test_results_are_found_by_any_of_the_names(tmp_path, folders):
    groups = pairing.pair_folders(folders("shot{}_ir.png", "shot{}_vis.png")).groups
    for pattern in ("shot{}", "shot{}_ir", "shot{}_vis", "SHOT{}", "shot{}_fused", "shot{}-net"):
        place = tmp_path / pattern.strip("shot{}_-") / "net"
        touch(*(place / f"{pattern.format(k)}.png" for k in (1, 2, 3)))
        results = pairing.find_results(place, groups)
        found = {name: path.stem for name, path in results.pictures.items()}
        assert found == {f"shot{k}": pattern.format(k) for k in (1, 2, 3)}
        assert results.strays == ()
        assert bool(results.rule) == (pattern in ("SHOT{}", "shot{}_fused", "shot{}-net"))
    touch(place / "x.png")
    assert pairing.find_results(place, groups).strays == (place / "x.png",)
    touch(tmp_path / "other" / "y.png")
    with pytest.raises(InputError, match=r"has the name of a pair \(such as shot1\)"):
        pairing.find_results(tmp_path / "other", groups)


def test_results_of_subfolders(tmp_path, folders):
    groups = pairing.pair_folders(folders("day/{}_ir.png", "day/{}_vis.png")).groups
    touch(*(tmp_path / "net" / f"day/{k}_ir.png" for k in (1, 2, 3)))
    results = pairing.find_results(tmp_path / "net", groups)
    assert results.pictures["day/2"] == tmp_path / "net" / "day" / "2_ir.png"
    assert pairing.find_results(tmp_path / "net", dict.fromkeys(groups, ())).pictures == (
        results.pictures
    )


def test_listing_goes_on_where_files_reads(tmp_path):
    touch(tmp_path / "a" / "1.png")
    (path,) = pairing.list_images(tmp_path / "a").values()
    assert files.read_image(path).shape == (2, 2)
