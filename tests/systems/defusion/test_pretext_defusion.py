"""What DeFusion learns from: the original's examples from its draws, and draws of our own."""

import dataclasses

import numpy as np
import pytest
from golden import Golden

from mgdn_jax import data
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_png
from mgdn_jax.systems.defusion import pretext

TASK = "mgdn_jax.systems.defusion.pretext"


def hwc(array):
    return np.moveaxis(array, 0, -1)


def draws_of(golden, case, side):
    def entry(name):
        return golden[f"in:{case}/{name}"]

    normals = np.zeros((2, side, side, 3), np.float32)
    if f"in:{case}/normal_0" in golden:
        normals = np.stack([hwc(entry(f"normal_{i}")) for i in (0, 1)])
    share, _, order = entry("uniforms_ratio_scale_swap")
    kept = float(golden[f"out:{case}/bernoulli_ratio"])
    assert 0.1 + share / 1.12 == pytest.approx(kept)
    return pretext.Draws(
        order=[int(k) for k in entry("jitter_order")],
        factors=entry("jitter_brightness_contrast_saturation").tolist(),
        window=tuple(int(n) for n in entry("crop_top_left_height_width")),
        grids=[entry(f"bernoulli_{i}") for i in range(5)],
        swaps=bool(order >= 0.5),
        normals=normals,
    )


@pytest.mark.parametrize("case", ["s64_noaa", "s64_noaa_b", "s64_aa", "s256"])
def test_the_draws_of_the_original_make_its_examples(case):
    golden = Golden("defusion_data_recipe")
    side = 256 if case == "s256" else 64
    photograph = golden["in:source_rgb_hwc"].astype(np.float32) / 255
    draws = draws_of(golden, case, side)
    example = pretext.made(photograph, draws, (side, side), antialias=case.endswith("_aa"))
    for name, theirs in (("mask_a", "mask1"), ("mask_b", "mask2")):
        assert np.array_equal(example[name][..., 0], golden[f"out:{case}/{theirs}"])
    if case == "s256":
        wanted = {"target": (example["target"][::8, ::8], golden[f"out:{case}/clean_every8"])}
    else:
        wanted = {"target": (example["target"], golden[f"out:{case}/clean"])}
    if f"out:{case}/img1" in golden:
        wanted |= {k: (example[k], golden[f"out:{case}/img{n}"]) for k, n in (("a", 1), ("b", 2))}
    for name, (ours, theirs) in wanted.items():
        error = np.abs(ours - hwc(theirs)).max()
        print(f"{case}, {name}: {error:.1e}")
        assert error <= 1e-7


def test_every_pixel_is_shown_and_windows_fit():
    rng = np.random.default_rng(0)
    spec = pretext.Pretext()
    shares, swapped, thirds = [], 0, set()
    for turn in range(300):
        height, width = (int(n) for n in rng.integers(1, 90, 2))
        draws = pretext.draw(spec, rng, (height, width), (20, 16))
        top, left, h, w = draws.window
        assert top >= 0 <= left
        assert 0 < h <= height - top
        assert 0 < w <= width - left
        assert sorted(draws.order) == [0, 1, 2]
        assert all(0.1 <= factor <= 1 for factor in draws.factors)
        assert [len(grid) for grid in draws.grids[:4]] in ([13, 26] * 2, [13, 27] * 2)
        thirds.add(len(draws.grids[4]))
        swapped += draws.swaps
        shares.append(np.mean(draws.grids[1]))
        if turn < 20:
            photograph = rng.random((height, width, 3), np.float32)
            example = pretext.made(photograph, draws, (20, 16))
            assert np.all(example["mask_a"] + example["mask_b"] >= 1)
            clean = np.where(example["mask_a"] > 0, example["a"], example["b"])
            np.testing.assert_array_equal(clean, example["target"])
    assert thirds == {13, 26, 27}
    assert 120 < swapped < 180
    assert min(shares) < 0.2
    assert max(shares) > 0.9
    # A photograph that no crop fits into is seen whole along its short side.
    assert pretext.draw(spec, rng, (1, 400), (8, 8)).window[0::2] == (0, 1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for kind in ("image", "labels"):
        (folder / "source" / kind).mkdir(parents=True)
    for k in range(6):
        picture = rng.integers(0, 256, (30, 40, 3), np.uint8)
        labels = np.zeros((30, 40), np.uint8)
        labels[:12] = 1
        for kind, content in (("image", picture), ("labels", labels)):
            (folder / "source" / kind / f"{k}.png").write_bytes(encode_png(content))
    data.prepare("natural", folder / "source", folder / "sets")
    return folder / "sets" / "natural"


def test_the_task_is_named_by_its_module(photographs):
    options = {"task": TASK, "crop": 16, "split": "train", "seed": 3}
    with data.make_loader(photographs, batch_size=2, **options) as loader:
        first = next(loader)
        state = loader.state()
        second = next(loader)
        loader.restore(state)
        again = next(loader)
        assert loader.preparation == {}
    shapes = {name: value.shape[1:] for name, value in first.items()}
    assert shapes == {**dict.fromkeys(("a", "b", "target"), (16, 16, 3)), "_index": (),
                      **dict.fromkeys(("mask_a", "mask_b"), (16, 16, 1))}  # fmt: skip
    assert not np.array_equal(first["target"], second["target"])
    assert all(np.array_equal(second[name], again[name]) for name in second)
    batches = [*data.make_eval_loader(photographs, batch_size=4, **{**options, "crop": 24})]
    assert sum(batch["_mask"].sum() for batch in batches) == 6
    assert batches[0]["target"].shape == (4, 24, 24, 3)
    whole = next(
        iter(data.make_eval_loader(photographs, batch_size=1, **{**options, "crop": None}))
    )
    assert whole["a"].shape == (1, 30, 40, 3)
    assert whole["mask_a"].shape == (1, 30, 40, 1)


def test_what_does_not_fit_is_refused(photographs):
    def refused(sentence, **options):
        with pytest.raises(InputError, match=sentence):
            data.make_loader(photographs, batch_size=1, crop=8, **{"task": TASK, **options})

    refused("synthesis has no field 'squares'", synthesis={"squares": 3})
    refused("synthesis.coarse must be a whole number|synthesis.coarse", synthesis={"coarse": "x"})
    refused(r"factors must be two numbers 0 < low <= high <= 1", synthesis={"factors": (0.0, 1.0)})
    refused("from 1 to 1024", synthesis={"fine": (9, 3)})
    refused("jitter belongs to task 'pairs'", jitter={"scale": 2.0})
    refused("there is no task 'defusion'", task="defusion")
    refused(r"give the dotted name of a module|dotted name", task="mgdn_jax.errors")
    refused(r"name a module", task="mgdn_jax.no_such_module")
    with pytest.raises(InputError, match="use one of photographs"):
        pretext.make_draw({"roles": ["a", "b"], "set": "pairs"}, None)
    assert dataclasses.asdict(pretext.Pretext())["coarse"] == 13
