"""Which padded sizes the pictures of a folder share, and how many programs that takes."""

import itertools

import fake_extent
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mgdn_jax
from mgdn_jax.fusing import buckets, tiling
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.io import files

LIMIT, COMPILATION = 1_500_000, 500_000
SIDES = st.integers(1, 1200)
SIZES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=40)


def choose(sizes, **kw):
    return buckets.choose(sizes, **{"limit": LIMIT, "compilation": COMPILATION} | kw)


def cost(sizes, padded):
    """Pixels through the network, and what the programs count."""
    areas = sum(np.prod(padded[size]) for size in sizes)
    return areas + COMPILATION * len(set(padded.values()))


@given(SIZES)
@settings(deadline=None, max_examples=60)
def test_every_size_fits_what_it_is_padded_to_and_three_are_enough(sizes):
    padded = choose(sizes)
    assert padded.keys() == set(sizes)
    shared = set(padded.values())
    assert len(shared) <= 3
    for size, room in padded.items():
        assert room[0] >= size[0]
        assert room[1] >= size[1]
        assert room == size or all(n % buckets.STEP == 0 for n in room)
    # Never worse than one for all, and a picture alone is not padded.
    whole = tuple(-(-max(side) // buckets.STEP) * buckets.STEP for side in zip(*sizes, strict=True))
    assert cost(sizes, padded) <= cost(sizes, dict.fromkeys(sizes, whole))
    for room in shared:
        members = [size for size in padded if padded[size] == room]
        assert len(members) > 1 or members == [room]
        sides = zip(*members, strict=True)
        assert all(n - max(side) < buckets.STEP for n, side in zip(room, sides, strict=True))


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_no_other_groups_of_few_sizes_cost_less(sizes):
    """Against all ways to divide them, up to the rounding of what is compared."""
    kinds = sorted(set(sizes))
    best = np.inf
    for labels in itertools.product(range(3), repeat=len(kinds)):
        groups = {
            k: [s for s, label in zip(kinds, labels, strict=True) if label == k] for k in labels
        }
        rooms = {
            k: tuple(buckets._rounded(max(side)) for side in zip(*members, strict=True))
            for k, members in groups.items()
        }
        best = min(best, cost(sizes, {s: rooms[k] for s, k in zip(kinds, labels, strict=True)}))
    assert cost(sizes, choose(sizes)) <= best


def test_what_a_folder_of_many_sizes_wastes():
    sizes = [(480, 640), (640, 480), (520, 520), (321, 481), (481, 321)]
    sizes += [(h + 1, w - 3) for h, w in sizes] + [(h - 5, w) for h, w in sizes]
    padded = choose(2 * sizes)
    assert len(padded) == 15
    assert len(set(padded.values())) == 3
    waste = sum(np.prod(padded[s]) for s in sizes) / sum(np.prod(s) for s in sizes) - 1
    print(f"15 sizes in three: {waste:.2f} of the pixels are padding")
    assert waste < 0.35
    # Of many pictures more programs pay, of dear compilations fewer.
    many = choose(20 * sizes)
    assert 3 < len(set(many.values())) <= 15
    assert len(set(choose(2 * sizes, compilation=10**9).values())) == 1
    assert len(set(choose(2 * sizes, most=2).values())) == 2


def test_what_would_not_fit_into_memory_is_not_shared():
    sizes = [(3000, 400), (400, 3000), (2000, 600), (600, 2000)]
    padded = choose(sizes, most=1)
    assert padded == {size: size for size in sizes}
    assert all(np.prod(room) <= LIMIT for room in choose(sizes).values())
    assert choose([]) == {}


def test_a_picture_that_was_cut_takes_the_smallest_that_holds_it():
    padded = choose([(112, 112), (99, 98), (300, 200)], most=2, compilation=1)
    assert padded == {(112, 112): (112, 112), (99, 98): (112, 112), (300, 200): (300, 200)}
    rooms = buckets.shared(padded)
    assert rooms == padded | {(300, 200): None}
    assert buckets.room((112, 112), rooms) == (112, 112)
    assert buckets.room((300, 200), rooms) is None
    assert buckets.room((90, 90), rooms) == (112, 112)
    assert buckets.room((113, 90), rooms) == (300, 200)
    assert buckets.room((301, 1), rooms) is None


def fake(**fields):
    config = fake_extent.Config(uses_mean=True, **fields)
    return Fuser("fake_extent", config, {"bias": jnp.zeros(())})


@pytest.mark.parametrize("padding", ["network", "script"])
def test_a_folder_compiles_three_programs_and_its_results_stay(padding, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "compilation_pixels", lambda: 1)
    rng = np.random.default_rng(0)
    # One of them is padded to itself, with others.
    sizes = [(64, 64), *((int(h), int(w)) for h, w in rng.integers(9, 60, (14, 2)))]
    for number, (h, w) in enumerate(2 * sizes):
        for source in "ab":
            picture = rng.integers(0, 256, (h, w, 3), np.uint8)
            files.write_image(tmp_path / source / f"{number}.png", picture)
    fuser = fake(window=1)  # which pads nothing by itself
    folders = tmp_path / "a", tmp_path / "b"
    written = mgdn_jax.fuse_folders(
        *folders, output=tmp_path / "out", model=fuser, batch=1, padding=padding
    )
    assert fuser.programs == 3
    alone = fake(window=1)
    for name, path in written.items():
        pair = (files.read_image(folder / f"{name}.png") for folder in folders)
        wanted = alone(*pair, padding=padding)
        difference = np.abs(files.read_image(path).astype(int) - wanted)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
    assert alone.programs > 10


def test_sizes_are_shared_by_the_fuser_that_was_asked_for_them():
    fuser = fake()
    sizes = [(40, 50), (41, 52), (30, 44)]
    sharing = fuser.for_sizes([*sizes, (9000, 9000)])
    assert sharing.plan(40, 50).padded == sharing.plan(30, 44).padded == (48, 64)
    assert sharing.plan(40, 50).seen == (40, 50)
    assert sharing.plan(20, 20).padded == (48, 64)
    assert not sharing.plan(60, 20).bucketed
    assert not fuser.plan(40, 50).bucketed
    assert sharing.plan(40, 50, bucket=8).padded == (40, 56)
    assert sharing.plan(40, 50, tile=16).bucketed is False
    assert sharing.plan(9000, 9000).tiles > 1
    script = fuser.for_sizes(sizes, padding="script").plan(40, 50, padding="script")
    assert (script.seen, script.padded) == ((48, 56), (48, 64))
    alone = fuser.for_sizes([(41, 52)] * 3).plan(41, 52)
    assert (alone.padded, alone.bucketed) == ((44, 52), False)
    cannot = Fuser("fake_fusion", fake_extent.Config(), {"bias": jnp.zeros(())})
    assert cannot.for_sizes(sizes) is cannot
    assert tiling.seen_size(7, 9, "network", 4) == (7, 9)
