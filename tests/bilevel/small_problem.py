"""Small bilevel problems with known answers, and a Python loop to compare with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

SGD = optax.sgd(0.1)
ADAM = optax.adam(0.05, eps_root=1e-16)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def gap(ours, wanted):
    """Largest absolute difference over the largest wanted entry, all leaves together."""
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True))
    pairs = [(np.asarray(o, np.float64), np.asarray(w, np.float64)) for o, w in pairs]
    return max(np.abs(o - w).max() for o, w in pairs) / max(np.abs(w).max() for _, w in pairs)


def problem():
    """(outer, inner, train, test): a two-layer net; phi weighs the residuals and a penalty."""
    inner = {
        "first/kernel": normal(0, 3, 4),
        "first/bias": normal(1, 4),
        "last/kernel": normal(2, 4, 2),
    }
    outer = {"weigh": normal(3, 3, 2), "penalty": jnp.asarray(0.3)}
    train = {"x": normal(4, 8, 3), "y": normal(5, 8, 2)}
    test = {"x": normal(6, 8, 3), "y": normal(7, 8, 2)}
    return outer, inner, train, test


def net(theta, x):
    return jnp.tanh(x @ theta["first/kernel"] + theta["first/bias"][None]) @ theta["last/kernel"]


def propose(outer, batch):
    return jax.nn.softplus(batch["x"] @ outer["weigh"]), outer["penalty"]


def weighted_loss(theta, context, batch):
    weights, penalty = context
    fit = jnp.mean(weights * (net(theta, batch["x"]) - batch["y"]) ** 2)
    return fit + penalty * jnp.sum(theta["last/kernel"] ** 2)


def inner_loss(theta, outer, batch):
    return weighted_loss(theta, propose(outer, batch), batch)


def indirect_loss(theta, outer, batch):
    del outer
    return jnp.mean((net(theta, batch["x"]) - batch["y"]) ** 2)


def outer_loss(theta, outer, batch):
    return indirect_loss(theta, outer, batch) + 0.01 * outer["penalty"] ** 2


def adapt(outer, inner, batches, optimiser, *, names=None, state=None):
    """Inner steps in a plain Python loop, one a batch."""
    names = names or list(inner)
    theta = {name: inner[name] for name in names}
    rest = {name: inner[name] for name in inner if name not in names}
    state = optimiser.init(theta) if state is None else state
    for batch in batches:
        slope = jax.grad(lambda t, b=batch: inner_loss({**rest, **t}, outer, b))(theta)
        updates, state = optimiser.update(slope, state, theta)
        theta = optax.apply_updates(theta, updates)
    return {**rest, **theta}, state


def brute(outer, inner, batches, test, optimiser, judge=outer_loss, **kwargs):
    def objective(outer):
        return judge(adapt(outer, inner, batches, optimiser, **kwargs)[0], outer, test)

    return jax.jit(jax.value_and_grad(objective))(outer)


def quadratic(theta, phi, batch):
    """Half the squared distance of theta to phi, times the batch."""
    return 0.5 * batch * jnp.sum((theta - phi) ** 2)


def half_square(theta, phi, batch):
    del phi
    return 0.5 * batch * jnp.sum(theta**2)


def ridge():
    """Loss, optimum and the exact gradient of the test loss to the log penalties."""
    x, y = normal(0, 20, 4), normal(1, 20)
    tx, ty = normal(2, 20, 4), normal(3, 20)
    phi = jnp.asarray([0.1, -0.5, 0.3, 0.0])

    def inner(w, phi, batch):
        x, y = batch
        return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * jnp.sum(jnp.exp(phi) * w**2)

    def outer(w, phi, batch):
        x, y = batch
        return 0.5 * jnp.mean((x @ w - y) ** 2)

    hessian = x.T @ x / 20 + jnp.diag(jnp.exp(phi))
    w = jnp.linalg.solve(hessian, x.T @ y / 20)
    u = tx.T @ (tx @ w - ty) / 20
    wanted = -jnp.exp(phi) * w * jnp.linalg.solve(hessian, u)
    return inner, outer, w, phi, (x, y), (tx, ty), wanted
