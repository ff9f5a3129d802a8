"""Exported networks: programs of any size and of one, what stands beside them, and their checks."""

import dataclasses
import functools
import json
import re
import subprocess
import sys

import helpers
import helpers_systems
import jax
import numpy as np
import pytest
from unchecked import as_users_call

from mgdn_jax import InputError
from mgdn_jax.cli.main import main
from mgdn_jax.fusing.fuser import Fuser
from mgdn_jax.fusing.loading import load
from mgdn_jax.io import files as pictures
from mgdn_jax.layers import forms
from mgdn_jax.serving import checks, description, programs
from mgdn_jax.serving.export import export
from mgdn_jax.systems import registry
from mgdn_jax.systems.lkc_funet import network as lkc_funet
from mgdn_jax.systems.mgdn import network as mgdn
from mgdn_jax.systems.pyramid import network as pyramid
from mgdn_jax.weights import zoo
from mgdn_jax.weights.store import save_weights

pytestmark = pytest.mark.unchecked  # jaxtyping has no symbols

MGDN = mgdn.Config(
    **{"features": 12, "depths": (2,), "heads": (2,), "window": 2, "patch": 2},
    **{"guidance": "set", "head": "pyramid"},
)
SMALL = {
    "cddfuse": helpers_systems.CDDFUSE,
    "lkc_funet": lkc_funet.Config(**helpers_systems.LKC_FUNET),
    "mgdn": MGDN,
    "pyramid": pyramid.Config(levels=2, features=3, convolutions=1),
    "refusion": helpers_systems.REFUSION,
}
CARD = {"task": "infrared and visible", "inputs": "infrared, visible"}


@functools.cache
def small(system, **changes):
    """A small network with drawn weights that say something."""
    config = dataclasses.replace(SMALL[system], **changes)
    _, params = helpers_systems.drawn(system, config, 0.1)
    stats = registry.abstract(system, config)[2]
    return Fuser(system, config, params, {k: np.ones(v.shape, v.dtype) for k, v in stats.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a small network."""
    path = tmp_path_factory.mktemp("weights") / "little.safetensors"
    fuser = small("pyramid")
    config = fuser.config.to_dict()
    save_weights(path, system="pyramid", config=config, params=fuser.params, card=CARD, half=True)
    return path


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    with as_users_call():
        return export(weights, tmp_path_factory.mktemp("out") / "new")


@pytest.mark.parametrize("system", ["mgdn", "refusion"])
def test_nothing_branches_on_sizes(system):
    program = programs.exported(small(system), "jax", None, ("cpu", "cuda", "tpu"))
    exported = jax.export.deserialize(bytearray(program))
    assert {str(aval.shape[:3]) for aval in exported.in_avals} == {"(b, h, w)"}
    assert str(exported.out_avals[0].shape[:3]) == "(b, h, w)"


@pytest.mark.parametrize("system", ["cen", "defusion", "emma", "mma_unet", "tim"])
def test_sizes_stay_unknown_in_every_system(system):
    """Traced, not compiled: comparisons of sizes, and sizes that only look different, stop it."""
    config = {
        "cen": {"encoder": (4, 4), "decoder": (4,)},
        "defusion": {
            "stem": 4, "encoder": (2,) * 4, "encoder_depths": (1,) * 4, "code": 4, "code_depth": 1,
            "unique": (4, 4, 4, 2), "unique_depths": (1,) * 4,
            "common": (4, 4, 4, 2), "common_depths": (1,) * 4,
        },
        "emma": {"features": (4, 4), "heads": 2},
        "mma_unet": {"features": 4},
        "tim": {"features": 4, "chains": 1, "chain": ("ECAattention_3", "SPAattention_3")},
    }[system]  # fmt: skip
    preset = next(iter(registry.network(system).PRESETS.values()))
    fuser = Fuser(system, *_weights(system, dataclasses.replace(preset, **config)))
    program = programs.exported(fuser, "jax", None, ("cpu",))
    exported = jax.export.deserialize(bytearray(program))
    assert str(exported.out_avals[0].shape[1:3]) == "(h, w)"


def _weights(system, config):
    """A configuration with weights and statistics of nothing but ones."""
    _, *trees = registry.abstract(system, config)
    ones = ({k: np.ones(v.shape, v.dtype) for k, v in tree.items()} for tree in trees)
    return config, *ones


COMPILES_LONG = [pytest.param(x, marks=pytest.mark.long) for x in SMALL if x != "pyramid"]


@pytest.mark.parametrize("system", ["pyramid", *COMPILES_LONG])
def test_a_program_of_any_size_is_the_network(system, tmp_path):
    fuser = small(system)
    path = tmp_path / "program"
    path.write_bytes(programs.exported(fuser, "jax", None, ("cpu", "cuda", "tpu")))
    inputs = checks.pictures(fuser, (2, 13, 18))
    outputs = programs.loaded(path, "jax")(inputs)
    expected = jax.jit(programs.network(fuser))(fuser.params, fuser.stats, *inputs)
    assert len(outputs) == len(programs.outputs(fuser))
    for got, wanted in zip(outputs, expected, strict=True):
        assert got.shape == wanted.shape
        assert np.ptp(wanted) > 1e-3
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)  # drawn weights, untrained


def test_both_kinds_of_accelerators_get_their_own_blocks(tmp_path):
    # Two blocks of four rows on a CPU, all eight at once elsewhere, in one program.
    path = tmp_path / "program"
    fuser = small("mgdn", depths=(1,), guidance="mutual", head="blend")
    path.write_bytes(programs.exported(fuser, "jax", (1, 16, 3200), ("cpu", "cuda", "tpu")))
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    code = text.split("func.func private @_filter_rows")[1].split("func.func")[0]
    platform, *_, blocks = code.split('"stablehlo.case"')[1:]
    numbers = dict(re.findall(r"(%c\w*) = stablehlo.constant dense<(-?\d+)>", code))
    # Which of the two forms a platform takes, in the order of the platforms.
    assert [numbers[x] for x in re.findall(r"return (%c\w*)", platform)] == ["0", "1", "1"]
    on_cpu, elsewhere = blocks.split("\n    }, {")
    block = re.search(r"call @(closed_call\w*)", on_cpu)[1]
    block = text.split(f"func.func private @{block}(")[1].split("func.func")[0]
    four_rows, eight_rows = (f"tensor<1x{rows}x1600x1x12xf32>" for rows in (4, 8))
    assert "stablehlo.while" in on_cpu
    assert four_rows in block
    assert "stablehlo.while" not in elsewhere
    assert eight_rows in elsewhere
    assert eight_rows not in on_cpu + block


def test_forms_are_a_context_and_a_key_of_caches():
    traced = []

    @jax.jit
    def function(x):
        traced.append((forms.are_compact(), forms.are_whole()))
        return forms.by_platform(x, cpu=lambda x: x + 1, default=lambda x: x + 2)

    def call(form):
        with forms.traced(form):
            return float(function(0.0))

    assert [call(form) for form in (*forms.FORMS, *forms.FORMS)] == [1, 1, 1, 2] * 2
    assert traced == [(False, False), (True, False), (True, True), (True, True)]
    with pytest.raises(ValueError, match="form must be one of quick, compact, symbolic, plain"):
        forms.traced("slow")


def test_files_of_an_export(files, weights):
    about = json.loads(files.about.read_text())
    assert about == files.description
    assert [path.name for path in (files.artefact, files.about, files.check)] == [
        *("little.jax", "little.json", "little.check.npz"),
    ]
    assert about["size"] == {
        **{"batch": "any", "height": "any", "width": "any"},
        **{"least": 1, "multiple": 1},
    }
    assert [entry["role"] for entry in about["inputs"]] == ["infrared", "visible"]
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["colour"]["space"] == "luminance"
    # The weights are half as large as in memory, as in their file.
    fuser = load(weights)
    assert programs._narrow(next(iter(fuser.params.values()))).dtype == np.float16
    assert files.run_check() == {
        **{"output": "fused", "tolerance": 1e-5, "passed": True},
        "difference": pytest.approx(0, abs=1e-5),
        "differences": {"fused": pytest.approx(0, abs=1e-5)},
    }


def test_it_runs_without_the_package(files, weights, tmp_path):
    near, far, fused = (tmp_path / f"{name}.png" for name in ("near", "far", "fused"))
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (21, 30, 3), np.uint8)
    pictures.write_image(near, scene[..., 0])
    pictures.write_image(far, scene)
    child = (
        "import runpy, sys; sys.modules['mgdn_jax'] = None\n"
        "for words in {runs!r}:\n"
        "    sys.argv = [{example!r}, *words]\n"
        "    try: runpy.run_path({example!r}, run_name='__main__')\n"
        "    except SystemExit as stop: assert not stop.code, stop.code\n"
    )
    example = str(helpers.ROOT / "examples" / "run_exported.py")
    runs = [
        [str(files.about), "--check"],
        [str(files.about), str(near), str(far), "-o", str(fused)],
    ]
    code = child.format(runs=runs, example=example)
    done = subprocess.run(
        [sys.executable, "-c", code], env=helpers.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # Colour and range are those of `Fuser`, whose picture this is.
    expected = load(weights)(near, far)
    got = pictures.read_image(fused)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_networks_of_every_kind_have_a_description():
    for name in ("mgdn-gdsr4", "mgdn-hdr", "mgdn-mef", "refusion-mff"):
        fuser, path = load(name), zoo.bundled()[name]
        about = description.describe(
            fuser, name=name, weights=path, kind="jax", size=None, platforms=("cpu",)
        )
        json.dumps(about, allow_nan=False)
        channels = [entry["channels"] for entry in about["inputs"]]
        assert channels == list(fuser.config.in_channels)
        assert all(entry["role"] for entry in about["inputs"])
        assert about["outside"]
        outputs = [entry["name"] for entry in about["outputs"]]
        assert outputs == list(programs.outputs(fuser))
        inputs = checks.pictures(fuser, (1, 6, 7))
        assert [x.shape for x in inputs] == [(1, 6, 7, c) for c in channels]
        assert all(np.isfinite(x).all() and x.dtype == np.float32 for x in inputs)


def test_the_command_writes_and_checks(weights, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", str(weights), "-o", str(out), "--size", "9x12", "--platforms", "cpu"]
    assert main([*words, "--check", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["result"]["passed"] is True
    about = json.loads((out / "little.json").read_text())
    assert (about["size"]["batch"], about["size"]["height"], about["platforms"]) == (1, 9, ["cpu"])
    # What does not come out as expected is found, and code 1.
    check = out / "little.check.npz"
    with np.load(check) as file:
        arrays = dict(file)
    np.savez(check, **(arrays | {"fused": arrays["fused"] + np.float32(0.01)}))
    assert main(["export", str(out / "little.json"), "--check"]) == 1
    assert (
        "NOT as expected: largest difference of fused 1.0e-02, 1e-05 allowed"
        in capsys.readouterr().out
    )
    (out / "little.jax").write_bytes(b"none")
    assert main(["export", str(out / "little.json"), "--check"]) == 2
    assert "is no exported network, or damaged" in capsys.readouterr().err


BAD = {
    "no place": (["W"], "name a folder with -o"),
    "a new size of an old one": (["W", "--check", "--size", "9x9"], "--size is about a new export"),
    "no network": (["nobody", "-o", "D"], "there is no model 'nobody'"),
    "no size": (["W", "-o", "D", "--size", "9"], "size is '9'; write any, or rows x columns"),
    "no pixels": (["W", "-o", "D", "--size", "0x9"], "size is '0x9'"),
    "batch alone": (["W", "-o", "D", "--batch", "2"], "batch needs a size"),
    "platform": (["W", "-o", "D", "--platforms", "gpu"], "choose of cpu, cuda, rocm, tpu"),
    "a file in the way": (["W", "-o", "W"], "is not a folder"),
    "a foreign description": (["W", "-o", "F"], "describes no exported network"),
    "another format": (["W", "-o", "O"], "describes 'little.onnx'; choose another folder"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_is_wrong_is_said_before_work(case, weights, tmp_path, capsys):
    words, sentence = BAD[case]
    foreign, other = tmp_path / "foreign", tmp_path / "other"
    for folder, content in (
        (foreign, {"format": "else"}),
        (
            other,
            {"format": "mgdn_jax-export", "version": 1, "artefact": {"file": "little.onnx"}},
        ),
    ):
        folder.mkdir()
        (folder / "little.json").write_text(json.dumps(content))
    places = {"W": weights, "D": tmp_path / "d", "F": foreign, "O": other}
    assert main(["export", *(str(places.get(word, word)) for word in words)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_missing_extra_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r"needs flatbuffers .*: pip install 'mgdn-jax\[export\]'"):
        export(weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_that_branch_on_sizes_say_so(monkeypatch):
    fuser = small("refusion")
    monkeypatch.setattr(forms, "are_whole", lambda: False)
    with pytest.raises(InputError, match=r"cannot be exported to jax for any size .* give a size"):
        programs.exported(fuser, "jax", None, ("cpu",))
