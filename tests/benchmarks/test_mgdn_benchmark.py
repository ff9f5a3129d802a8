"""benchmarks/mgdn.py on tiny sizes: its plain PyTorch networks are the published ones, and ours."""

import types

import numpy as np
import pytest
from golden import Golden, max_error
from helpers import script

import mgdn_jax
from mgdn_jax.fusing import deghosting
from mgdn_jax.systems import registry
from mgdn_jax.weights import conversion

LAYERS = {"depths": (2,), "heads": (6,)}
GOLDEN = {"gdsr": {}, "hdr": LAYERS}
INPUTS = {"gdsr": ("rgb", "depth"), "hdr": ("under", "ref", "over")}


@pytest.fixture(scope="module")
def mgdn():
    return script("benchmarks/mgdn.py")


@pytest.fixture(scope="module", autouse=True)
def one_thread(torch):
    """Small maps need no more, and threads of several workers would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(mgdn, tmp_path_factory):
    """Weight files of both tasks; one stage with two blocks is enough."""
    paths = {}
    for task in INPUTS:
        paths[task] = tmp_path_factory.mktemp("weights") / f"{task}.safetensors"
        mgdn.draw_weights(paths[task], task, **LAYERS)
    return paths


@pytest.mark.parametrize("task", INPUTS)
def test_the_plain_network_is_the_published_one(mgdn, torch, task):
    golden = Golden(f"mgdn_{task}_random")
    config = registry.preset("mgdn", task, **GOLDEN[task])
    params, _ = conversion.convert_state_dict(golden.state(), system="mgdn", config=config)
    network = mgdn.Plain(params, config.to_dict())
    with torch.no_grad():
        fused = network(*(torch.from_numpy(golden[f"in:{name}"]) for name in INPUTS[task]))
    assert max_error(fused.numpy(), golden["out:fused"]) <= 1e-5


@pytest.mark.parametrize("task", INPUTS)
def test_both_sides_make_the_same_of_a_scene(mgdn, torch, weights, task, monkeypatch):
    assert mgdn.TILE == deghosting.PUBLISHED_TILE
    monkeypatch.setattr(mgdn, "TILE", 16)
    monkeypatch.setattr(deghosting, "PUBLISHED_TILE", 16)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    size = (24, 32) if task == "gdsr" else (16, 32)
    pictures = mgdn.scene(task, *size)
    ours, plain = (
        mgdn.call_of(side, task, str(weights[task]))(*pictures) for side in ("jax", "torch")
    )
    assert ours.shape == plain.shape == (*size, 3)[: ours.ndim]
    assert np.ptp(plain) > 0.1  # neither is constant
    np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_the_comparison_finds_another_network(mgdn, torch, weights, monkeypatch):
    fuser = mgdn_jax.load(weights["hdr"])
    monkeypatch.setattr(mgdn_jax, "load", lambda path: fuser)  # compiles once
    assert mgdn.compare("", (11, 14)) <= mgdn.LARGEST
    name = "layers/0/blocks/1/attention/position_bias"
    params = fuser.params | {name: fuser.params[name][::-1]}
    plain = mgdn.Plain
    monkeypatch.setattr(mgdn, "Plain", lambda _, config: plain(params, config))
    assert mgdn.compare("", (11, 14)) > mgdn.LARGEST


def test_rounds_alternate_and_the_medians_are_compared(mgdn, monkeypatch):
    calls = []

    def child(options, side, weights, target):
        calls.append(side)
        if side == "both":
            return 1e-7
        np.save(target, np.full(3, 0.5 if side == "jax" else 0.25))
        slow = 1 if side == "jax" else 10
        return {
            "first_s": 9.0,
            "seconds": [slow, 2.0 * slow],
            "cpu_seconds": [slow],
            "peak_mb": slow,
        }

    monkeypatch.setattr(mgdn, "child", child)
    options = types.SimpleNamespace(task="gdsr", size="8x8", rounds=2, repeats=2)
    report = mgdn.speed(options)
    assert calls == ["both", "jax", "torch", "jax", "torch"]
    assert report["torch_over_jax"] == report["torch_over_jax_cpu"] == 10
    assert report["jax_over_torch_memory"] == 0.1
    assert report["median_s"] == {"jax": 1.5, "torch": 15}
    assert report["difference"] == 0.25
    monkeypatch.setattr(mgdn, "child", lambda *_: 1e-3)
    with pytest.raises(SystemExit, match="not the same networks"):
        mgdn.speed(options)
