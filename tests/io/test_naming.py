"""Which names belong together, by rule, and which must not."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdn_jax.errors import InputError
from mgdn_jax.io import naming


def match(*lists, titles=()):
    return naming.match([{name: f"{k}/{name}" for name in x} for k, x in enumerate(lists)], titles)


def numbered(pattern, count=5):
    return [pattern.format(k) for k in range(1, count + 1)]


PAIRED = {
    ("{}_ir", "{}_vis"): "without 'ir' and 'vis'",
    ("IR{}", "VIS{}"): "without 'ir' and 'vis'",
    ("LWIR_{}", "RGB_{}"): "without 'lwir' and 'rgb'",
    ("x{}-thermal", "x{}-rgb"): "without 'thermal' and 'rgb'",
    ("{}.fused", "{}"): "without 'fused'",
    ("{} (ct)", "{} [mr]"): "without 'ct' and 'mr'",
    ("ir_{:04}_left", "vis_{:04}_left"): "without 'ir' and 'vis'",
    ("IR_m{}_g", "VIS_m{}_r"): "without 'ir' and 'g' and 'vis' and 'r'",
    ("scene_near_{}", "scene_far_{}"): "without 'near' and 'far'",
    ("cam0_{}", "cam1_{}"): "without 'cam0' and 'cam1'",
    ("{}-t1", "{}-t2"): "without 't1' and 't2'",
    ("{}_1", "{}_2"): "without '1' and '2'",
    ("lytro-{}-A", "lytro-{}-B"): "without 'a' and 'b'",
    ("{}a", "{}b"): "without 'a' and 'b'",
    ("before_{}", "after_{}"): "without 'before' and 'after'",
    ("{}.fused", "{}.v"): "without 'fused' and 'v'",
    ("IR{}", "photo_{}"): "without 'ir' and 'photo'",
    ("{}", "{}_mine"): "without 'mine'",
    ("{}", "{:03}"): "without leading zeros",
    ("{:02}_ir", "{}_vis"): "without 'ir' and 'vis', without leading zeros",
    ("S{}", "s{}"): "without regard to capitals and Unicode form",
    ("e\u0301t\u00e9 {}", "\u00e9te\u0301 {}"): "without regard to capitals and Unicode form",
    ("day/{}_ir", "Day/{}_vis"): "without 'ir' and 'vis'",
    ("x{}", "x{}"): "",
}


@pytest.mark.parametrize("patterns", PAIRED)
def test_names_that_belong_together(patterns):
    first, second = map(numbered, patterns)
    for lists in ((first, second), (second[::-1], first)):
        result = match(*lists)
        is_turned = lists[0][0] != first[0]
        pairs = [names[::-1] if is_turned else names for names in result.groups.values()]
        assert sorted(pairs) == sorted(zip(first, second, strict=True))
        assert result.gaps == {}
    assert match(first, second).rule == PAIRED[patterns]


@pytest.mark.parametrize(
    "patterns",
    [
        ("{}", "x{}y"),
        ("{}", "x_{}_y"),
        ("{}", "a{}b"),
        ("{}", "x{}"),
        ("{}", "{}z"),
        ("img{}", "scene{}"),
        ("x{}", "y{}"),
        ("left{}", "right{}"),
        ("s1_{}", "s2_{}"),
        ("1_{}", "2_{}"),
        ("{}ir", "x{}"),
        ("ir_meadow_{}", "vis_{}"),
        ("ir_meadow_{}", "vis_river_{}x"),
        ("1vis{}", "{}"),
        ("{}.1", "{}.01"),
        ("a/{}", "b/{}"),
        ("a/{}_ir", "b/{}_vis"),
        ("{}_1_x", "{}_3_x"),
    ],
)
def test_names_that_must_not_be_paired(patterns):
    first, second = map(numbered, patterns)
    for lists in ((first, second), (second, first)):
        result = match(*lists)
        assert result.groups == {}
        assert result.gaps.keys() == {*first, *second}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["cat_1"], ["dog_1"]),
        (["a1"], ["b1"]),
        (["1_1"], ["1_2"]),
        (["ir"], ["vis"]),
        (["one"], ["two"]),
    ],
)
def test_a_single_file_is_not_paired_by_luck(first, second):
    assert match(first, second).groups == {}
    assert match(["1_ir"], ["1_vis"]).groups == {"1": ("1_ir", "1_vis")}


def test_keys_are_names_without_labels():
    assert "m001_x" in match(numbered("IR_m{:03}_x"), numbered("VIS_m{}_x")).groups
    assert list(match(["S1", "S2"], ["s1", "s2"]).groups) == ["S1", "S2"]
    assert list(match(["e\u0301"], ["\u00e9"]).groups) == ["\u00e9"]
    assert list(match(["day/1_ir"], ["day/1_vis"]).groups) == ["day/1"]
    assert list(match(["s10", "s9"], ["s9", "s10"]).groups) == ["s9", "s10"]


def test_the_name_of_the_folder_is_a_label():
    names = numbered("{}_our-net2")
    assert match(numbered("x{}y"), numbered("x{}y_our-net2"), titles=("", "our-net2")).groups
    assert match(numbered("{}", 1), names[:1], titles=("ir", "our-net2")).groups == {
        "1": ("1", "1_our-net2")
    }
    assert not match(numbered("{}", 1), names[:1]).groups
    # Not where it touches the key, and a number is none.
    assert not match(numbered("{}"), numbered("x{}"), titles=("", "x")).groups
    assert not match(numbered("{}"), numbered("7_{}"), titles=("", "7")).groups


def test_three_folders():
    result = match(numbered("{}_ir"), numbered("{}_vis"), numbered("{}_gt"))
    assert result.groups["2"] == ("2_ir", "2_vis", "2_gt")
    result = match(numbered("{}"), numbered("{}"), numbered("{}_gt"))
    assert result.groups["2"] == ("2", "2", "2_gt")
    assert match(numbered("{}_1"), numbered("{}_2"), numbered("{}_3")).groups["5"][2] == "5_3"
    result = match(numbered("x{}"), numbered("x{}"), numbered("x{}", 4))
    assert result.gaps == {"x5": (2,)}
    assert list(result.groups) == numbered("x{}", 4)


def test_ambiguous_names_are_refused_with_one_of_each_side():
    cases = [
        (["7", "07"], ["007"], ("0/7", "0/07", "1/007")),
        ([*numbered("{}_ir"), "1-ir"], numbered("{}_vis"), ("0/1_ir", "0/1-ir", "1/1_vis")),
        ([*numbered("{}_ir"), "5"], numbered("{}_vis"), ("0/5_ir", "0/5 ", "1/5_vis")),
        (["S1", "s1"], ["s\u0131", "\u017f1"], ("0/S1", "0/s1", "1/\u017f1")),
    ]
    for first, second, parts in cases:
        for lists in ((first, second), (first[::-1], second)):
            with pytest.raises(InputError, match=r"could both belong to .*; rename") as caught:
                match(*lists)
            assert all(part.strip() in str(caught.value) for part in parts)


def test_equal_names_stay_together_whatever_a_rule_would_say():
    # Two files whose names reduce to one key, but each has its equal.
    first, second = ["7", "07", "x"], ["7", "07", "y"]
    assert match(first, second).groups == {"7": ("7", "7"), "07": ("07", "07")}
    assert match(["S1", "s1"], ["S1", "s1"]).groups == {"S1": ("S1", "S1"), "s1": ("s1", "s1")}
    assert match(["1", "2", "7", "07"], ["1", "x", "007", "z"]).groups == {"1": ("1", "1")}
    # A few equal names do not hide the rule for the others.
    result = match([*numbered("{}_ir", 9), "readme"], [*numbered("{}_vis", 9), "readme"])
    assert result.groups["readme"] == ("readme", "readme")
    assert result.groups["3"] == ("3_ir", "3_vis")


def test_strays_have_no_partner():
    first = [*numbered("{}_ir", 9), "10"]
    result = match(first, numbered("{}_vis", 10))
    assert "10" not in result.groups
    assert result.gaps == {"10": (1,), "10_vis": (0,)}
    assert len(result.groups) == 9
    # Too few for the rule to be meant.
    assert not match(numbered("{}_ir", 5), ["1_vis", "8_vis", "9_vis"]).groups


LABELS = st.sampled_from(
    [("{}_ir", "{}_vis"), ("IR{}", "VIS{}"), ("{}-one", "{}-two"), ("{}", "{}"), ("{}_1", "{}_2")]
)
CORES = st.lists(st.from_regex(r"[0-9]{1,3}", fullmatch=True), min_size=2, unique=True)


@settings(max_examples=60, deadline=None)
@given(CORES, LABELS, st.sampled_from(["", "Shot ", "x."]), st.randoms())
def test_what_was_split_comes_together_again(cores, patterns, lead, random):
    lead = "" if "IR" in patterns[0] else lead  # it would touch the word
    tables = [[pattern.format(lead + core) for core in cores] for pattern in patterns]
    wanted = set(zip(*tables, strict=True))
    for table in tables:
        random.shuffle(table)
    result = match(*tables)
    assert set(result.groups.values()) == wanted
    assert result.gaps == {}


def left_of(name, labels):
    """Words and numbers of a name, less leading zeros and the labels that a rule names."""
    parts = re.findall(r"[0-9]+|[a-z]+", name.lower())
    if "1" in labels:  # the sources are numbered, at the end
        parts.pop()
    return [part.lstrip("0") or "0" for part in parts if part not in labels - {"0", "1", "2"}]


STRAYS = st.from_regex(r"(ir|vis|x|a|b)?_?[0-2]{1,2}_?(ir|vis|x|b|1|2)?", fullmatch=True)
PATTERNS = st.sampled_from(
    [
        *("{}", "{}_ir", "{}_vis", "IR{}", "VIS{}", "x{}y", "x_{}", "y_{}", "a{}", "b{}"),
        *("{}_1", "{}_2", "ir_{}_x", "vis_{}_y", "{}-{}", "ir{}_{}"),
    ]
)


@st.composite
def tables(draw):
    """Names of a folder: most by one pattern, with or without leading zeros, and some others."""
    pattern = draw(PATTERNS)
    numbers = draw(st.lists(st.integers(0, 9), min_size=2, max_size=7, unique=True))
    digits = draw(st.sampled_from(["{}", "{:02}"]))
    names = [pattern.format(*[digits.format(k)] * 2) for k in numbers]
    return list(dict.fromkeys([*names, *draw(st.lists(STRAYS, max_size=2))]))


@settings(max_examples=150, deadline=None)
@given(tables(), tables())
def test_two_files_whose_keys_differ_are_never_paired(first, second):
    with contextlib.suppress(InputError):  # two names that could belong to one
        check_pairs(match(first, second), first, second)


def check_pairs(result, first, second):
    pairs = list(result.groups.values())
    for k, table in enumerate((first, second)):
        used = [pair[k] for pair in pairs]
        assert len(set(used)) == len(used)
        assert {*used, *(g for g, lacking in result.gaps.items() if k not in lacking)} == {*table}
    labels = set(re.findall(r"'(\w+)'", result.rule))
    for one, other in pairs:
        assert one == other or left_of(one, labels) == left_of(other, labels)
