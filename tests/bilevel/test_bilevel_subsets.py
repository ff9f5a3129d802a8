"""Subsets of the inner parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_problem import ADAM, brute, gap, inner_loss, outer_loss, problem

from mgdn_jax import bilevel
from mgdn_jax.bilevel import meta_gradient


@pytest.mark.parametrize(
    "trainable",
    [
        ["last", "bias$"],
        lambda path: "first/kernel" not in path,
        {"first/kernel": False, "first/bias": True, "last/kernel": True},
    ],
    ids=["expressions", "predicate", "mask"],
)
@pytest.mark.usefixtures("x64")
def test_inner_steps_on_a_subset(trainable):
    outer, inner, train, test = problem()
    inner = {**inner, "count": jnp.asarray(3)}  # an integer never trains
    names = ["first/bias", "last/kernel"]
    if isinstance(trainable, dict):
        trainable = {**trainable, "count": True}
    _, wanted = brute(outer, inner, [train] * 2, test, ADAM, names=names)
    meta = meta_gradient(
        inner_loss, outer_loss, optimiser=ADAM, steps=2, trainable=trainable, keep_inner=True
    )
    _, gradient, aux = jax.jit(meta)(outer, inner, train, test)
    assert gap(gradient, wanted) <= 1e-12
    assert np.array_equal(aux.inner["first/kernel"], inner["first/kernel"])
    assert int(aux.inner["count"]) == 3
    assert not np.array_equal(aux.inner["first/bias"], inner["first/bias"])


def test_partition_and_combine_are_inverse_on_nested_trees():
    tree = {"a": [jnp.ones(2), {"b": jnp.zeros(3)}], "c": (jnp.ones(1), None)}
    trained, rest = bilevel.partition(tree, "a/1/b|c")
    assert len(jax.tree.leaves(trained)) == 2
    assert len(jax.tree.leaves(rest)) == 1
    again = bilevel.combine(trained, rest)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(tree)))
