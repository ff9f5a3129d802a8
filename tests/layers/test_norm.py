"""Norms against PyTorch's, in training and in use; what is dropped in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgdn_jax.layers import functional
from mgdn_jax.layers.mode import EVAL, Mode, drop_path, dropout
from mgdn_jax.layers.norm import NORMS, BatchNorm, make_norm
from mgdn_jax.training import optimisers
from mgdn_jax.training.state import init_state
from mgdn_jax.training.step import make_train_step

X = np.random.default_rng(0).normal(1.0, 2.0, (3, 4, 5, 6)).astype(np.float32)
TORCH = {
    "instance": lambda nn: nn.InstanceNorm2d(6, affine=True),
    "group": lambda nn: nn.GroupNorm(2, 6),
    "layer": lambda nn: nn.GroupNorm(1, 6),
    "batch": lambda nn: nn.BatchNorm2d(6),
}


def filled(kind):
    """A norm of ours with random weights, split."""
    graphdef, params, stats = functional.abstract(lambda: make_norm(kind, 6, 2))
    random = np.random.default_rng(1)
    params, stats = (
        {k: jnp.asarray(random.uniform(0.5, 1.5, v.shape), jnp.float32) for k, v in flat.items()}
        for flat in (params, stats)
    )
    return graphdef, params, stats


def run(graphdef, params, stats, training):
    call = lambda p, s, x: functional.apply(graphdef, p, s, x, Mode(training))  # noqa: E731
    return jax.jit(call)(params, stats, X)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", TORCH)
def test_norms_equal_pytorch(torch, kind, training):
    graphdef, params, stats = filled(kind)
    theirs = TORCH[kind](torch.nn).train(training)
    theirs.weight.data = torch.from_numpy(np.array(params["scale"]))
    theirs.bias.data = torch.from_numpy(np.array(params["bias"]))
    if stats:
        theirs.running_mean = torch.from_numpy(np.array(stats["mean"]))
        theirs.running_var = torch.from_numpy(np.array(stats["variance"]))
    wanted = theirs(torch.from_numpy(X.transpose(0, 3, 1, 2))).detach().numpy()
    ours, new = run(graphdef, params, stats, training)
    error = np.abs(ours - wanted.transpose(0, 2, 3, 1)).max()
    print(f"{kind}, training {training}: {error:.1e}")
    assert error <= 2e-6
    if stats:
        assert np.allclose(new["mean"], theirs.running_mean, atol=1e-6)
        assert np.allclose(new["variance"], theirs.running_var, atol=1e-6)
        assert training == (not np.array_equal(new["mean"], stats["mean"]))


def test_batch_statistics_across_devices():
    """A training step of a batch norm alone: two devices with half the batch each equal one."""
    graphdef, params, stats = filled("batch")
    x = np.concatenate([X, 1 + X[:1] ** 2])  # halves that differ
    target = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    def loss(params, stats, batch, keys, phase, axis_name=None):
        mode = Mode(True, keys, axis_name)
        y, new = functional.apply(graphdef, params["n"], stats["n"], batch["x"], mode)
        return jnp.mean(y**3 * batch["y"]), ({"n": new}, {})

    sgd = {"n": optimisers.make_optimiser("sgd", 1.0, momentum=0.0)}
    state = init_state({"n": params}, {"n": stats}, sgd, ema=False)
    whole = {"x": x, "y": target, "_index": np.arange(4, dtype=np.uint32)}
    made = [
        make_train_step(loss, sgd, seed=0, phase="", trains=("n",), axis_name=axis)
        for axis in (None, "data")
    ]
    one, alone = jax.jit(made[0])(state, whole)
    halves = {k: v.reshape(2, 2, *v.shape[1:]) for k, v in whole.items()}
    step = jax.pmap(made[1], "data", in_axes=(None, 0), devices=jax.devices()[:2])
    two, both = step(state, halves)
    assert np.allclose(both["loss"], alone["loss"], rtol=1e-6)
    for kind in ("stats", "params"):
        for name, value in getattr(one, kind)["n"].items():
            shards = np.asarray(getattr(two, kind)["n"][name])
            assert shards[0].tobytes() == shards[1].tobytes()
            error = np.abs(shards[0] - value).max()
            print(f"two devices, {name}: {error:.1e}")
            assert error <= 1e-5
            assert (value != getattr(state, kind)["n"][name]).any()


def test_a_mixture_of_batch_and_layer():
    graphdef, params, stats = filled("mixed")
    for training in (False, True):
        mixed, new = run(graphdef, params, stats, training)
        parts = []
        for name, kind in (("batch", "batch"), ("layer", "layer")):
            own = functional.abstract(lambda kind=kind: make_norm(kind, 6))[0]
            below = [functional.below(flat, name) for flat in (params, stats)]
            parts.append(run(own, *below, training)[0])
        w, scale, bias = (np.asarray(params[name]) for name in ("weight", "scale", "bias"))
        parts = [np.asarray(part) for part in parts]
        wanted = scale * (w * parts[0] + (1 - w) * parts[1]) + bias
        assert np.allclose(mixed, wanted, atol=1e-6)
        assert training == (not np.array_equal(new["batch/mean"], stats["batch/mean"]))


def test_edges_of_norms():
    # One pixel, one channel: all norms but batch see nothing that varies.
    for kind in NORMS:
        norm = make_norm(kind, 1, 4)
        assert np.isfinite(norm(jnp.ones((1, 1, 1, 1)), Mode(True))).all()
    with pytest.raises(ValueError, match="divisible by groups"):
        make_norm("group", 6, 4)
    with pytest.raises(ValueError, match="norm is one of instance, group"):
        make_norm("weight", 6)
    half = BatchNorm(6)
    assert half(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    assert half.mean[...].dtype == jnp.float32


def test_dropping():
    keys = jax.random.split(jax.random.key(0), 400)
    x = jnp.ones((400, 2, 3, 4))
    paths = np.asarray(drop_path(x, 0.2, Mode(True, keys)))
    whole = paths.reshape(400, -1)
    assert (whole == whole[:, :1]).all()  # an example is dropped as a whole
    assert set(np.unique(whole)) == {0, np.float32(1.25)}
    assert abs(np.mean(whole[:, 0] == 0) - 0.2) < 4 * np.sqrt(0.16 / 400)
    values = np.asarray(dropout(x, 0.2, Mode(True, keys)))
    assert set(np.unique(values)) == {0, np.float32(1.25)}
    assert abs(np.mean(values == 0) - 0.2) < 4 * np.sqrt(0.16 / values.size)
    # Neither in use, nor without keys, nor at a rate of 0; and each draw is another one.
    for mode in (EVAL, Mode(False, keys), Mode(True)):
        assert drop_path(x, 0.2, mode) is x
    mode = Mode(True, keys)
    assert dropout(x, 0.0, mode) is x
    first, second = (np.asarray(dropout(x, 0.2, mode)) for _ in "ab")
    assert (first != second).any()
    # Layout does not matter: an example's draws come from its own key.
    assert np.array_equal(first[7:9], dropout(x[7:9], 0.2, Mode(True, keys[7:9])))
    assert isinstance(BatchNorm(2).mean, nnx.BatchStat)
