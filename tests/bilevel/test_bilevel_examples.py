"""The bilevel examples, small, with their outcomes."""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quadratic_finds_the_known_answer():
    error, distance = load("bilevel_quadratic").main(updates=60)
    assert error <= 1e-6
    assert distance <= 1e-5


def test_data_weights_find_the_flipped_labels():
    result = load("bilevel_data_weights").main(updates=40)
    assert result["weight_flipped"] < 0.5 * result["weight_clean"]
    assert result["accuracy_after"] > result["accuracy_before"]


def test_learned_loss_lowers_the_outer_loss():
    result = load("bilevel_learned_loss").main()
    assert result["outer_after"] < 0.7 * result["outer_before"]


def test_implicit_finds_the_useless_features():
    result = load("bilevel_implicit").main()
    assert result["outer_after"] < 0.3 * result["outer_before"]
    assert result["penalty_useful"] < 0.1 * result["penalty_useless"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"curvature": 3.0}, "update 0: the inner steps diverged"),
        ({"curvature": 3.0, "steps": 20}, "curvature -2 with its damping"),
        ({"steps": 3}, "take more inner steps"),
    ],
)
def test_implicit_stops_in_one_sentence(options, words):
    example = load("bilevel_implicit")
    with pytest.raises(example.UnsolvedError, match=words):
        example.main(**options)
