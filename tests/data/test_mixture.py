"""Mixtures: what stands where in the stream, and loaders of several sets as of one."""

import itertools
import json

import ml_collections
import numpy as np
import pytest

from mgdn_jax import data
from mgdn_jax.data.mixture import Chained, Slots
from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_png

SIZES = {"few": 2, "many": 7, "some": 3}
WEIGHTS = {"some": 1, "few": 2, "many": 3}
COMMON = {"task": "pairs", "batch_size": 4, "crop": 6, "split": "train", "channels": 1}
QUIET = {"threads": 1, "prefetch": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Sets "few", "many", "some" of plain pairs, whose a is 20 times the set's place and a number.

    "aimed" has targets, "natural" segmentations.
    """
    folder = tmp_path_factory.mktemp("mixture")

    def put(kind, name, roles, count, value, shape=(9, 12)):
        for role, k in itertools.product(roles, range(count)):
            path = folder / "source" / name / role / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # The last picture of a set is of another size.
            size = shape if k + 1 < count else shape[::-1]
            path.write_bytes(encode_png(np.full(size, value + k, np.uint8)))
        data.prepare(kind, folder / "source" / name, folder / "sets", name=name)

    for place, (name, count) in enumerate(SIZES.items()):
        put("pairs", name, ("a", "b"), count, 20 * place)
    put("pairs", "aimed", ("a", "b", "target"), 2, 0)
    put("natural", "natural", ("image", "labels"), 2, 0)
    return folder / "sets"


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.setenv("MGDN_DATA_DIR", str(root))


def take(count, **arguments):
    with data.make_loader(**{**COMMON, **QUIET, **arguments}) as loader:
        return list(itertools.islice(loader, count))


def values(batches):
    """The pictures' grey levels, in the order of the stream."""
    return np.concatenate([np.rint(batch["a"][:, 0, 0, 0] * 255) for batch in batches]).astype(int)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key, strict=True)


# ---- places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [(1,), (3, 3, 3), (1, 2), (8, 6, 6, 3, 3, 2, 2, 2), (0.1, 0.25, 7.5), (1, 1e6), (1e-9, 1, 1)],
)
def test_any_stretch_has_nearly_the_shares_of_the_weights(weights):
    slots = Slots(weights)
    places = [slots.place(i) for i in range(2300)]
    numbers = np.array([number for number, _ in places])
    for number, weight in enumerate(weights):
        # How many of a set stand before each position, counted one by one.
        counted = np.concatenate([[0], np.cumsum(numbers == number)])
        assert [slots.counts(stop)[number] for stop in range(2301)] == counted.tolist()
        # Every example of a set has one place, in order.
        positions = [position for n, position in places if n == number]
        assert positions == list(range(counted[-1]))
        share = weight / sum(weights)
        if max(weights) / min(weights) > 1000:  # a thousandth is the least
            share = min(max(share, 0.001), 0.999)
        assert np.abs(counted - share * np.arange(2301)).max() < 1 + 0.001 * 2300
    late = 10**15 + 1
    before, after = slots.counts(late), slots.counts(late + 1)
    number, position = slots.place(late)
    assert position == before[number]
    assert sum(before) == late
    assert [b + (n == number) for n, b in enumerate(before)] == after


def test_equal_weights_take_turns_and_others_are_spread():
    turns, slots = Slots([0.3] * 3), Slots([3, 1])
    assert [turns.place(i)[0] for i in range(6)] == [0, 1, 2, 0, 1, 2]
    order = [slots.place(i)[0] for i in range(1000)]
    assert order.count(1) == 250
    assert all(window.count(1) == 1 for window in (order[i : i + 4] for i in range(0, 1000, 4)))


def test_stored_examples_stand_one_after_another():
    chain = Chained([[0, 1], [2], [3, 4, 5]])
    assert list(chain) == [chain[i] for i in range(len(chain))] == [0, 1, 2, 3, 4, 5]
    for index in (-1, 6):
        with pytest.raises(IndexError):
            chain[index]


# ---- training --------------------------------------------------------------------------------


def test_each_set_comes_in_its_own_shuffled_order():
    with data.make_loader(mix=WEIGHTS, **COMMON, **QUIET) as loader:
        assert loader.sets == ("few", "many", "some")
        assert (len(loader.dataset), loader.steps_per_epoch) == (12, 3)
        batches = list(itertools.islice(loader, 15))
        done = loader.passes(15)
        assert loader.passes(0) == dict.fromkeys(loader.sets, 0)
    slots = Slots([WEIGHTS[name] for name in loader.sets])
    alone = [values(take(10, dataset=name)) for name in loader.sets]
    places = [slots.place(i) for i in range(60)]
    np.testing.assert_array_equal(values(batches), [alone[n][j] for n, j in places])
    numbers = np.concatenate([batch["_set"] for batch in batches])
    np.testing.assert_array_equal(numbers, [number for number, _ in places])
    index = np.concatenate([batch["_index"] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(60))
    counts = {name: int((numbers == place).sum()) for place, name in enumerate(loader.sets)}
    assert counts == {"few": 20, "many": 30, "some": 10}
    assert done == {name: count / SIZES[name] for name, count in counts.items()}


def test_crops_and_jitter_depend_on_the_place_in_the_stream_alone():
    jitter = {"gamma": 2.0, "noise": 0.1, "exposure": 2.0, "contrast": 0.5, "polarity": 0.5}
    straight = take(5, mix=WEIGHTS, jitter=jitter)
    for count in (2, 4):
        parts = [
            take(5, mix=WEIGHTS, jitter=jitter, process_index=p, process_count=count, threads=p)
            for p in range(count)
        ]
        for step, whole in enumerate(straight):
            for p in range(count):
                assert_same(parts[p][step], {k: v[p::count] for k, v in whole.items()})
    backwards = dict(sorted(WEIGHTS.items(), reverse=True))
    block = ml_collections.ConfigDict({name: float(w) for name, w in backwards.items()})
    for mix in (backwards, block, {name: np.float32(w) for name, w in WEIGHTS.items()}):
        for one, two in zip(straight, take(5, mix=mix, jitter=jitter), strict=True):
            assert_same(one, two)


def test_a_mixture_goes_on_from_any_state():
    straight = take(9, mix=WEIGHTS)
    with data.make_loader(mix=WEIGHTS, **COMMON, **QUIET) as loader:
        states = [loader.state() for _ in zip(range(8), loader, strict=False)]
        for step in (7, 0, 3):
            loader.restore(json.loads(json.dumps(states[step], sort_keys=True)))
            assert_same(next(loader), straight[step + 1])
    with data.make_loader(mix=WEIGHTS, **COMMON, **QUIET, process_index=1, process_count=2) as half:
        half.restore(states[5])
        assert_same(next(half), {key: value[1::2] for key, value in straight[6].items()})
    with data.make_loader(mix=WEIGHTS, **COMMON, **QUIET) as loader:
        state = loader.state()
        for change, words in (
            (
                {"weights": {**state["weights"], "many": 4.0}},
                "has weights.many 4.0, this run has 3.0; resume",
            ),
            ({"sets": {**state["sets"], "many": 8}}, "has sets.many 8, this run has 7;"),
            ({"sets": {"few": 2, "lots": 7, "some": 3}}, "has sets.lots 7, this run has None;"),
            ({"sets": None}, "has sets None, this run has {'few': 2, 'many': 7, 'some': 3};"),
            ({"seed": 1}, "has seed 1, this run has 0; resume with the settings of the saved run"),
        ):
            with pytest.raises(InputError) as caught:
                loader.restore({**state, **change})
            assert words in str(caught.value)
    with data.make_loader("few", **COMMON) as single:
        assert (single.sets, single.passes(5)) == ((), {})
        with pytest.raises(InputError, match=r"has sets .*'few': 2.*, this run has None; "):
            single.restore({**state, "dataset_size": 2})


def test_an_epoch_of_a_mixture_is_as_long_as_its_sets():
    with data.make_loader(mix={"few": 1, "many": 1}, **COMMON, epochs=3) as loader:
        assert len(list(loader)) == 6  # 27 examples, the last three dropped
    with pytest.raises(InputError, match="batch_size 32 exceeds the 9 examples"):
        data.make_loader(mix={"few": 1, "many": 1}, **{**COMMON, "batch_size": 32}, epochs=1)


def test_a_mixture_of_one_is_that_set():
    for one, two in zip(take(3, mix={"many": 5}), take(3, dataset="many"), strict=True):
        assert not one.pop("_set").any()
        assert_same(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "there is no data set; give its name as dataset, or several with weights as mix."),
        ({"dataset": None, "mix": {}}, "there is no data set; give"),
        (
            {"dataset": "few", "mix": {"many": 1}},
            "both dataset 'few' and mix {'many': 1.0}; set one",
        ),
        ({"dataset": 5}, "dataset is 5; give the folder or the name of a set."),
        ({"mix": "few"}, "mix is 'few'; give weights by set, as {'ivf': 1, 'train2': 2}."),
        ({"mix": ["few", "many"]}, "mix is ['few', 'many']; give weights by set"),
        ({"mix": {"few": 0}}, "mix.few is 0, but must be above 0."),
        ({"mix": {"few": -1, "many": 2}}, "mix.few is -1, but must be above 0."),
        ({"mix": {"few": float("nan")}}, "mix.few is nan, but must be a finite number."),
        ({"mix": {"few": 1e7}}, "mix.few is 10000000.0, but must be at most 1e+06."),
        ({"mix": {"few": "2"}}, "mix.few is '2', but must be a number."),
        ({"mix": {"few": None}}, "mix.few is None, but must be a number."),
        ({"mix": {"few": True}}, "mix.few is True, but must be a number."),
        ({"mix": {3: 1}}, "a name of mix is 3; give the folder or the name of a set."),
        ({"mix": {"": 1}}, "a name of mix is ''; give the folder or the name of a set."),
        ({"mix": {"few": 1, "fwe": 1}}, "mix.fwe: the data set 'fwe' is neither a prepared folder"),
        ({"mix": {"few": 1, "natural": 1}}, "mix.natural: task 'pairs' does not fit the set"),
        ({"mix": {"few": 1, "aimed": 1}}, "mix.aimed has targets and mix.few has none; mix sets"),
        ({"mix": {"few": 1}, "split": "test"}, "mix.few: split 'test' cannot be read"),
        ({"mix": dict.fromkeys(map(str, range(257)), 1)}, "mix has 257 sets; give 256 at most."),
    ],
)
def test_what_cannot_be_mixed_is_said_in_one_sentence(change, message):
    for make in (data.make_loader, data.make_eval_loader):
        with pytest.raises(InputError) as caught:
            make(**{**COMMON, **change})
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


# ---- evaluation ------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [None, 6])
def test_evaluation_goes_through_one_set_after_another(crop):
    arguments = {**COMMON, "crop": crop}
    loader = data.make_eval_loader(**arguments, mix=WEIGHTS)
    assert list(loader.shares.items()) == [("few", 2.0), ("many", 3.0), ("some", 1.0)]
    assert loader.examples_per_epoch == 12
    batches = list(loader)
    assert len(loader) == len(batches) == (4 if crop else 7)  # a picture of each has its own size
    alone, start = [], 0
    for place, name in enumerate(loader.shares):
        for batch in data.make_eval_loader(name, **arguments):
            numbers = np.full(4, place, np.uint32)
            alone.append({**batch, "_set": numbers, "_index": batch["_index"] + np.uint32(start)})
        start += SIZES[name]
    for one, two, again in zip(batches, alone, loader, strict=True):
        assert_same(one, two)
        assert_same(one, again)
    counted = np.concatenate([values([batch])[batch["_mask"] > 0] for batch in batches])
    assert sorted(counted) == [20 * p + k for p, n in enumerate(SIZES.values()) for k in range(n)]
    half = list(data.make_eval_loader(**arguments, mix=WEIGHTS, process_index=1, process_count=2))
    for one, two in zip(half, batches, strict=True):
        assert_same(one, {key: value[1::2] for key, value in two.items()})


def test_a_limit_is_of_each_set():
    batches = list(data.make_eval_loader(**COMMON, mix=WEIGHTS, limit=3))
    assert [int(batch["_mask"].sum()) for batch in batches] == [2, 3, 3]
    assert [int(batch["_set"][0]) for batch in batches] == [0, 1, 2]
    single = data.make_eval_loader("few", **COMMON)
    assert single.shares == {}
    assert "_set" not in next(iter(single))
