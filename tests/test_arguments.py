"""Single arguments of any type: the right value, or one sentence."""

import numpy as np
import pytest

from mgdn_jax import arguments, metrics
from mgdn_jax.errors import InputError
from mgdn_jax.fusing import ranges, tasks
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.quantities import depth, radiance

HUGE = 10**400


@pytest.mark.parametrize("value", ["8", 8.0, 1.5, True, np.float32(8), None, [8], HUGE, -1, np.nan])
def test_whole_numbers(value):
    with pytest.raises(InputError, match=r"^tile is .*, but must be ") as caught:
        arguments.whole("tile", value)
    assert len(str(caught.value)) < 160


def test_numbers_that_are_right():
    assert arguments.whole("tile", np.int64(8)) == 8
    assert type(arguments.whole("tile", np.uint8(8))) is int
    assert arguments.real("x", np.float32(0.5)) == 0.5
    assert arguments.reals("x", np.array([1, 2])) == (1.0, 2.0)
    assert arguments.flag("x", np.True_) is True
    # 7000 digits are more than Python prints.
    assert arguments.shown(10**7000) == "a number of thousands of digits"


@pytest.mark.parametrize("value", ["1", True, None, HUGE, np.nan, np.inf, 0, [1]])
def test_real_numbers(value):
    with pytest.raises(InputError, match=r"^x is .*, but must be "):
        arguments.real("x", value, above=0)


@pytest.mark.parametrize("value", [0.5, "12", [], ["a"], [1, [2]], [True], [HUGE, 1], [1, 2, 3]])
def test_several_numbers(value):
    with pytest.raises(InputError, match=r"x is|a number of x is"):
        arguments.reals("x", value, 2)


BIG = np.arange(12, dtype=">u2").reshape(3, 4)


def test_arrays():
    made = arguments.array("x", BIG)
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(made, BIG)
    for value in ([[1, 2], [3]], [[1], "a", [2, 3]]):
        with pytest.raises(InputError, match=r"^x is no array"):
            arguments.array("x", value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tile", "8", "whole number"),
        ("overlap", 1.5, "whole number"),
        ("bucket", True, "whole number"),
        ("scale", -1, "at least 0"),
        ("tile", HUGE, "at most"),
        ("chroma", [], "choose one of"),
        ("stretch", np.array(["none"]), "choose one of"),
        ("align", "no", "True or False"),
        ("checks", 1, "True or False"),
        ("range", 5, "must be a text"),
        ("homography", 3, "must be a text"),
        ("tone", "nan,1", "LO,HI"),
        ("tone", "-inf,inf", "LO,HI"),
        ("tone", "0,1e-200", "LO,HI"),
    ],
)
def test_options_of_a_call(name, value, message):
    with pytest.raises(InputError, match="give FuseOptions"):
        FuseOptions().otherwise({name: value})
    with pytest.raises(InputError, match=f"{name} is .*{message}"):
        FuseOptions(**{name: value})
    with pytest.raises(InputError, match="on the weights' card"):
        FuseOptions.on_card({"inference": {name: value}})


def test_cards_that_hold_something_else():
    with pytest.raises(InputError, match="inference is 3 and no object"):
        FuseOptions.on_card({"inference": 3})
    with pytest.raises(InputError, match="preparation is 'x' and no object"):
        tasks.quantity_of({"preparation": "x"}, (1, 1))
    for field in ({"gamma": "x"}, {"gamma": True}, {"mu": HUGE}, {"mu": np.nan}, {"mu": []}):
        fields = {"quantity": "radiance", "gamma": 2.2, "mu": 5000.0} | field
        with pytest.raises(InputError, match=f"{next(iter(field))} is "):
            radiance.RadiancePreparation.from_dict(fields)
    for field in ({"scale": 4.0}, {"scale": HUGE}, {"margin": "x"}, {"margin": np.nan}):
        with pytest.raises(InputError, match=f"{next(iter(field))} is "):
            depth.DepthPreparation.from_dict({"quantity": "depth"} | field)


def test_ranges_that_floats_do_not_hold():
    for rule in ("1e999,2e999", "-1e308,1e308", "0,1e-320", "A:0,1e40", "percentile,nan,3"):
        with pytest.raises(InputError, match="range"):
            ranges.rules(rule, 2, "type")
    for rule in ("nan,1", "1e400,1", "0,1e-300", "0,inf"):
        with pytest.raises(InputError, match="window"):
            ranges.windows(rule, 2)


def test_times_of_exposures():
    assert radiance.relative_times(seconds=np.array([0.5, 2.0])) == (1.0, 4.0)
    for seconds in (["a", 1], 0.5, [True, 2], "12", [1, HUGE], [1e-300, 1e300], [1, -1], []):
        with pytest.raises(InputError, match="times"):
            radiance.relative_times(seconds=seconds)


def test_pictures_of_another_order_of_bytes_are_measured():
    native = np.random.default_rng(0).integers(0, 65535, (64, 64), np.uint16)
    for dtype in (">u2", "<u2"):
        values = metrics.evaluate(*[native.astype(dtype)] * 3, ["EN", "SD"])
        assert values == metrics.evaluate(native, native, native, ["EN", "SD"])
    with pytest.raises(InputError, match="no array"):
        metrics.evaluate([[1], [1, 2]], native, native, ["EN"])
    with pytest.raises(InputError, match="masked values"):
        metrics.evaluate(np.ma.masked_equal(native, native[0, 0]), native, native, ["EN"])
    for wrong in ({"names": [3]}, {"names": ["EN"], "variant": []}):
        with pytest.raises(InputError, match=r"a metric is 3|metric variant"):
            metrics.evaluate(native, native, native, **wrong)
