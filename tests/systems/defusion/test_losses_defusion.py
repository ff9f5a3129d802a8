"""DeFusion's loss at thirteen counts of calls, with gradients at five."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from helpers_defusion import nhwc

from mgdn_jax.errors import InputError
from mgdn_jax.systems.defusion import losses
from mgdn_jax.systems.defusion.losses import Annealing

PARTS = ("common", "upper", "lower")
CALLS = (0, 2999, 3000, 5000, 6999, 7000, 16999, 17000, 20000, 24000, 40000, 40001, 60000)


def test_the_loss_and_its_gradients():
    golden, annealing = Golden("defusion_losses"), Annealing()
    truth = jnp.asarray(nhwc(golden["in:gt"]))
    masks, target = (truth[..., :1], truth[..., 1:2]), truth[..., 2:5]
    pictures = [jnp.asarray(nhwc(golden[f"in:{name}"])) for name in (*PARTS, "fusion")]

    def loss(pictures, calls):
        outside = losses.outside_weight(calls, annealing)
        terms = losses.terms(*pictures[:3], target, masks, outside)
        weight = losses.fusion_weight(calls, annealing)
        terms["fusion"] = weight * losses.fusion(pictures[3], target)
        return sum(jnp.sum(term) for term in terms.values()), terms

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    with_gradients = 0
    for calls in CALLS:
        (value, terms), grads = run(pictures, jnp.float32(calls))
        wanted = float(golden[f"scalar:it{calls}/total_loss"])
        assert float(value) == pytest.approx(wanted, rel=1e-6)
        for name, term in terms.items():
            wanted = float(golden[f"scalar:it{calls}/self_supervised_{name}_mix"])
            assert float(term.mean()) == pytest.approx(wanted, abs=1e-7)
        if f"grad_in:it{calls}/common" not in golden:
            continue
        with_gradients += 1
        ties = 0
        for name, picture, gradient in zip((*PARTS, "fusion"), pictures, grads, strict=True):
            wanted = nhwc(golden[f"grad_in:it{calls}/{name}"])
            # Values that meet their target to the last digit: rounding says on which side.
            tied = np.abs(np.asarray(picture - target)) < 1e-7
            apart = np.abs(np.asarray(gradient) - wanted) / max(np.abs(wanted).max(), 1e-30)
            assert apart[~tied].max() <= 1e-5
            ties += np.count_nonzero(apart > 1e-5)
        print(f"{calls} calls: {ties} ties of {wanted.size} rounded to the other side")
        assert ties <= 8
    assert with_gradients == 5


def test_weights_of_a_short_schedule():
    short = Annealing(outside_from=0, outside_full=0, outside_relaxed=2, fusion_from=0,
                      fusion_zero=0, fusion_full=4)  # fmt: skip
    calls = jnp.arange(6.0)
    weights = losses.outside_weight(calls, short)
    np.testing.assert_allclose(weights, [0, 0.15, 0.15, 0.015, 0.015, 0.015], rtol=1e-6)
    weights = losses.fusion_weight(calls, short)
    np.testing.assert_allclose(weights, [0, 1 / 16, 1 / 4, 9 / 16, 1, 1])
    end = jnp.float32(jnp.inf)  # validation
    assert float(losses.outside_weight(end, short)) == pytest.approx(0.015)
    assert float(losses.fusion_weight(end, short)) == 1
    for fields, sentence in (
        ({"outside": 2.0}, r"recipe.outside is 2.0 and must be in \[0, 1\]"),
        ({"fusion_from": -1}, "recipe.fusion_from is -1 and must be 0 or more"),
        ({"fusion_full": 9000}, "recipe.fusion_full is 9000 and must be above fusion_zero, 10000"),
    ):
        with pytest.raises(InputError, match=sentence):
            Annealing(**fields)
