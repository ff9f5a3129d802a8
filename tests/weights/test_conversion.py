"""Conversion is complete or raises: unmatched, unfilled, double and misshapen entries."""

import numpy as np
import pytest
from golden import Golden

from mgdn_jax.errors import InputError
from mgdn_jax.fusing.loading import load
from mgdn_jax.systems.mgdn.network import PRESETS
from mgdn_jax.weights import conversion

MFF = PRESETS["mff"]


@pytest.fixture(scope="module")
def state():
    return Golden("mgdn_mgff_mff_random").state()


def convert(state):
    return conversion.convert_state_dict(state, system="mgdn", config=MFF)


def test_complete(state):
    params, report = convert(state)
    assert len(report.converted) == len(params) == 204
    dead = ("patch_embed.norm", "norm.", "adjust_channel_03", "index", "attn_mask")
    assert all(any(d in name for d in dead) for name in report.skipped)
    kernel = state["conv_last.0.weight"]
    assert np.array_equal(params["last/kernel"][1, 2, 5, 0], kernel[0, 5, 1, 2])


def test_prefix_of_data_parallel_is_stripped(state):
    params, _ = convert({f"module.{k}": v for k, v in state.items()})
    assert params.keys() == convert(state)[0].keys()


def test_unmatched_entry(state):
    with pytest.raises(InputError, match=r"1 unknown entries \(surprise.weight\)"):
        convert({**state, "surprise.weight": np.zeros(3, np.float32)})


def test_unfilled_parameter(state):
    missing = {k: v for k, v in state.items() if k != "inconv2.bias"}
    with pytest.raises(InputError, match=r"1 parameters without a source \(stems/1/bias\)"):
        convert(missing)


def test_double_entry(state):
    with pytest.raises(InputError, match="two partners"):
        convert({**state, "module.inconv1.bias": state["inconv1.bias"]})


def test_misshapen_entry(state):
    with pytest.raises(InputError, match=r"wrong shape \(inconv1.bias: \(31,\) where \(30,\)"):
        convert({**state, "inconv1.bias": np.zeros(31, np.float32)})
    with pytest.raises(InputError, match="wrong shape"):
        convert({**state, "inconv1.weight": np.zeros(31, np.float32)})


def test_wrong_preset_names_the_options(state):
    with pytest.raises(InputError, match="check --system and --preset"):
        conversion.convert_state_dict(state, system="mgdn", config=PRESETS["mef"])
    with pytest.raises(InputError, match="there is no system 'other'; choose one of cddfuse"):
        conversion.convert_state_dict(state, system="other", config=MFF)


def test_file_to_file(torch, state, tmp_path):
    source, target = tmp_path / "net.pth", tmp_path / "net.safetensors"
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    torch.save({"params": tensors}, source)
    report = conversion.convert(source, target, system="mgdn", preset="mff")
    assert report.complete
    fuser = load(target)
    golden = Golden("mgdn_mgff_mff_random")
    out = np.asarray(fuser.network(golden.nhwc("in:a"), golden.nhwc("in:b")))
    assert np.abs(out - np.moveaxis(golden["out:fused"], 1, -1)).max() <= 1e-5
    assert fuser.options.padding == "script"


def test_the_target_is_a_weight_file(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        conversion.convert(tmp_path / "a.pth", tmp_path / "b.pth", system="mgdn", preset="mff")


def test_unusable_files(torch, tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        conversion.read_torch(tmp_path / "none.pth")
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint at all")
    with pytest.raises(InputError, match="cannot be read as a PyTorch checkpoint"):
        conversion.read_torch(bad)
    torch.save({"a": torch.zeros(2)}, bad)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        conversion.read_torch(bad)
    torch.save([1, 2], bad)
    with pytest.raises(InputError, match="no dictionary of tensors"):
        conversion.read_torch(bad)


def test_pickled_code_is_never_run(torch, tmp_path):
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (type(ran).touch, (ran,))

    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match="plain tensors"):
        conversion.read_torch(tmp_path / "trap.pth")
    assert not ran.exists()
    (tmp_path / "page.pth").write_bytes(b"<html><body>Too many requests</body></html>")
    with pytest.raises(InputError, match="plain tensors") as caught:
        conversion.read_torch(tmp_path / "page.pth")
    assert "module" not in str(caught.value)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(InputError, match=r"a whole module; save its state_dict\(\) instead"):
        conversion.read_torch(tmp_path / "module.pth")
