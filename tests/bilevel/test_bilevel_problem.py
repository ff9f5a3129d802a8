"""What may be part of a bilevel problem: state, batches, proposals, auxiliary parameters, aux."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import (
    ADAM,
    SGD,
    adapt,
    brute,
    gap,
    inner_loss,
    net,
    normal,
    outer_loss,
    problem,
    propose,
    quadratic,
    weighted_loss,
)

from mgdn_jax.bilevel import Auxiliary, Solver, meta_gradient
from mgdn_jax.errors import InputError


@pytest.mark.usefixtures("x64")
def test_optimiser_state_can_be_carried_in():
    outer, inner, train, test = problem()
    state = jax.jit(lambda: adapt(outer, inner, [test] * 2, ADAM)[1])()
    _, wanted = brute(outer, inner, [train], test, ADAM, state=state)
    for mode in ("unrolled", "mixed_product"):
        meta = meta_gradient(inner_loss, outer_loss, optimiser=ADAM, mode=mode, keep_inner=True)
        _, gradient, aux = jax.jit(meta)(outer, inner, train, test, opt_state=state)
        assert gap(gradient, wanted) <= 1e-12
        assert int(aux.opt_state[0].count) == 3


@pytest.mark.usefixtures("x64")
def test_one_batch_a_step():
    outer, inner, train, test = problem()
    batches = [jax.tree.map(lambda x, i=i: x + 0.1 * i, train) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    value, wanted = brute(outer, inner, batches, test, SGD)
    meta = meta_gradient(
        weighted_loss, outer_loss, optimiser=SGD, steps=3, batch_per_step=True, propose=propose
    )
    ours, gradient, aux = jax.jit(meta)(outer, inner, stacked, test)
    assert abs(float(ours - value)) <= 1e-14
    assert gap(gradient, wanted) <= 1e-12
    assert aux.inner_losses.shape == (3,)


@pytest.mark.parametrize(
    ("mode", "steps"),
    [("unrolled", 3), ("mixed_product", 1), ("implicit", 2), ("rank_one", 1)],
)
@pytest.mark.usefixtures("x64")
def test_proposals_are_computed_once_a_batch(mode, steps):
    outer, inner, train, test = problem()
    calls = []

    def counted(outer, batch):
        jax.debug.callback(lambda: calls.append(1))
        return propose(outer, batch)

    options = {"optimiser": SGD, "steps": steps, "mode": mode}
    if mode == "implicit":
        options["solver"] = Solver(damping=1.0)
    wanted = jax.jit(meta_gradient(inner_loss, outer_loss, **options))(outer, inner, train, test)
    meta = jax.jit(meta_gradient(weighted_loss, outer_loss, propose=counted, **options))
    ours = meta(outer, inner, train, test)
    jax.effects_barrier()
    assert gap(ours[1], wanted[1]) <= 1e-12
    assert len(calls) <= 2  # forward, and again where its backward pass needs it


@pytest.mark.usefixtures("x64")
def test_auxiliary_parameters_follow_the_base_inner_ones():
    outer, inner, train, test = problem()
    psi = normal(9, 2, 2)

    def auxiliary_loss(psi, theta, batch):
        return jnp.mean((net(theta, batch["x"]) @ psi - batch["y"]) ** 2)

    def judge(theta, outer, batch, psi):
        return auxiliary_loss(psi, theta, batch) + 0.01 * outer["penalty"] ** 2

    fitted = psi
    for _ in range(2):
        fitted = fitted - 0.2 * jax.jit(jax.grad(auxiliary_loss))(fitted, inner, train)
    value, wanted = brute(
        outer, inner, [train], test, SGD, judge=lambda t, o, b: judge(t, o, b, fitted)
    )
    auxiliary = Auxiliary(auxiliary_loss, optax.sgd(0.2), steps=2)
    meta = jax.jit(meta_gradient(inner_loss, judge, optimiser=SGD, auxiliary=auxiliary))
    ours, gradient, aux = meta(outer, inner, train, test, psi=psi)
    assert abs(float(ours - value)) <= 1e-14
    assert gap(gradient, wanted) <= 1e-12
    assert gap(aux.auxiliary, fitted) <= 1e-14
    assert aux.auxiliary_losses.shape == (2,)
    # Base, not adapted: psi' is the same whatever phi says.
    other = jax.tree.map(lambda x: x + 1, outer)
    assert np.array_equal(meta(other, inner, train, test, psi=psi)[2].auxiliary, aux.auxiliary)


@pytest.mark.parametrize(
    ("mode", "steps"),
    [("unrolled", 1), ("unrolled", 2), ("mixed_product", 1), ("implicit", 2), ("rank_one", 1)],
)
def test_the_auxiliary_problem_may_use_what_the_inner_loss_made(mode, steps):
    outer, inner, train, test = problem()
    psi = normal(9, 2, 2)

    def on_made(psi, made, batch):
        return jnp.mean((made @ psi - batch["y"]) ** 2)

    def on_inner(psi, theta, batch):
        return on_made(psi, net(theta, batch["x"]), batch)

    def both(theta, outer, batch):
        return inner_loss(theta, outer, batch), net(theta, batch["x"])

    def judge(theta, outer, batch, psi):
        return on_inner(psi, theta, batch) + 0.01 * outer["penalty"] ** 2

    found = []
    for loss, from_aux in ((on_inner, False), (on_made, True)):
        meta = meta_gradient(
            both, judge, optimiser=SGD, steps=steps, mode=mode, inner_has_aux=True,
            auxiliary=Auxiliary(loss, optax.sgd(0.2), steps=2, from_aux=from_aux),
            solver=Solver(damping=1.0) if mode == "implicit" else None,
        )  # fmt: skip
        value, gradient, aux = jax.jit(meta)(outer, inner, train, test, psi=psi)
        found.append((value, gradient, aux.auxiliary, aux.auxiliary_losses))
    assert gap(*found) <= 1e-12
    assert float(jnp.abs(found[1][2] - psi).max()) > 1e-3


def test_auxiliary_parameters_may_stay_as_they_are():
    auxiliary = Auxiliary(lambda psi, theta, batch: jnp.sum(psi * theta), SGD, steps=0)
    meta = meta_gradient(
        quadratic, lambda t, phi, b, psi: jnp.sum(psi * t), optimiser=SGD, auxiliary=auxiliary
    )
    _, gradient, aux = meta(jnp.zeros(2), jnp.ones(2), 2.0, None, psi=jnp.asarray([3.0, 5.0]))
    assert np.allclose(gradient, [0.6, 1.0])  # rate * h * psi
    assert np.array_equal(aux.auxiliary, [3.0, 5.0])
    assert aux.auxiliary_losses.shape == (0,)


@pytest.mark.parametrize(("mode", "steps"), [("unrolled", 2), ("mixed_product", 1)])
def test_losses_may_return_aux(mode, steps):
    outer, inner, train, test = problem()

    def inner_with(theta, outer, batch):
        return inner_loss(theta, outer, batch), {"seen": net(theta, batch["x"])}

    def outer_with(theta, outer, batch):
        return outer_loss(theta, outer, batch), net(theta, batch["x"])

    options = {"optimiser": SGD, "steps": steps, "mode": mode}
    plain = jax.jit(meta_gradient(inner_loss, outer_loss, **options))(outer, inner, train, test)
    meta = meta_gradient(
        inner_with, outer_with, inner_has_aux=True, outer_has_aux=True, keep_inner=True, **options
    )
    _, gradient, aux = jax.jit(meta)(outer, inner, train, test)
    assert gap(gradient, plain[1]) <= 1e-6
    assert plain[2].inner is plain[2].inner_aux is plain[2].outer_aux is None
    assert aux.inner_aux["seen"].shape == (steps, 8, 2)
    assert np.allclose(aux.inner_aux["seen"][0], net(inner, train["x"]), atol=1e-6)
    assert np.allclose(aux.outer_aux, net(aux.inner, test["x"]), atol=1e-6)


def test_bad_arguments_of_a_call():
    outer, inner, train, test = problem()

    def call(arguments=(outer, inner, train, test), given=None, **options):
        meta_gradient(inner_loss, outer_loss, optimiser=SGD, **options)(*arguments, **(given or {}))

    with pytest.raises(InputError, match=r"'middle' fits no inner parameter; .*'first/bias'"):
        call(trainable=["last", "middle"])
    with pytest.raises(InputError, match="selects none"):
        call(trainable=lambda path: False)
    with pytest.raises(InputError, match="booleans in the structure"):
        call(trainable={"last/kernel": True})
    with pytest.raises(InputError, match="leading axis of 3"):
        call(batch_per_step=True, steps=3)
    with pytest.raises(InputError, match="go together"):
        call(given={"psi": jnp.ones(2)})
    with pytest.raises(InputError, match="opt_state does not belong"):
        call(given={"opt_state": ADAM.init(inner)})
