"""The command line as a stranger meets it: one sentence, an exit code, no debris."""

import errno
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_fusion import Config
from helpers import environment
from helpers_cli import everything, mgdn, save_model, save_pictures

from mgdn_jax.cli import main as cli
from mgdn_jax.cli import progress
from mgdn_jax.fusing import fuser
from mgdn_jax.io import codec
from mgdn_jax.systems import finding
from mgdn_jax.weights.store import save_weights


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A folder with a good pair, a good model and one of every bad thing."""
    monkeypatch.setenv("MGDN_CACHE_DIR", "off")
    monkeypatch.setattr(progress, "SECONDS", 3600.0)  # a machine may be slow
    monkeypatch.chdir(tmp_path)
    save_model("m.safetensors")
    save_pictures("a.png", "b.png")
    save_pictures("small.png", shape=(15, 20, 3))
    save_pictures("deep.png", dtype=np.uint16)
    save_pictures("clear1.png", "clear2.png", shape=(16, 20, 4))
    save_pictures("dir/x.png")
    save_pictures("other/y.png")
    os.makedirs("nothing")
    whole = Path("a.png").read_bytes()
    for name, data in (("empty.png", b""), ("half.png", whole[:300]), ("text.png", b"hello")):
        Path(name).write_bytes(data)
    for name, value in (("nan.tif", np.nan), ("bright.tif", 300.0), ("float.tif", 0.5)):
        Path(name).write_bytes(codec.encode(np.full((16, 20), value, np.float32), ".tif"))
    weights = Path("m.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(weights[: len(weights) // 2])
    Path("old.pth").write_bytes(b"PK\3\4")
    from safetensors.numpy import save_file

    save_file({"bias": np.zeros(1, np.float32)}, "foreign.safetensors")
    params = {"gain": np.zeros((), np.float32)}
    save_weights(
        "misfit.safetensors", system="fake_fusion", config=Config().to_dict(), params=params
    )


MODEL = "--model m.safetensors"
BAD = {
    f"fuse a.png missing.png -o c.png {MODEL}": "missing.png does not exist",
    f"fuse a.png dir -o c.png {MODEL}": "files and folders mixed",
    f"fuse a.png -o c.png {MODEL}": "a.png is alone",
    f"fuse dir -o c.png {MODEL}": "dir holds a single image",
    f"fuse nothing -o c.png {MODEL}": "nothing holds no image",
    f"fuse dir other -o out {MODEL}": "has the same name",
    f"fuse dir nothing -o out {MODEL}": "nothing holds no image",
    f"fuse dir dir -o a.png {MODEL}": "a.png is a file where a folder",
    f"fuse a.png small.png -o c.png {MODEL}": "small.png is 20x15 but a.png is 20x16",
    f"fuse a.png empty.png -o c.png {MODEL}": "empty.png is empty",
    f"fuse a.png half.png -o c.png {MODEL}": "half.png is damaged or truncated",
    f"fuse a.png text.png -o c.png {MODEL}": "text.png is not an image",
    f"fuse float.tif nan.tif -o c.tif {MODEL}": "nan.tif holds NaN",
    f"fuse float.tif bright.tif -o c.tif --range type {MODEL}": "bright.tif has float pixels",
    f"fuse a.png b.png -o c.gif {MODEL}": "c.gif does not end in an image type",
    f"fuse a.png b.png -o dir {MODEL}": "dir is a folder",
    f"fuse a.png b.png -o b.png {MODEL}": "b.png is one of the inputs",
    f"fuse a.png b.png -o a.png/c.png {MODEL}": "is not a folder",
    f"fuse deep.png deep.png -o c.jpg {MODEL}": "cannot hold 16-bit pixels",
    f"fuse clear1.png clear2.png -o c.jpg {MODEL}": "cannot hold transparency",
    f"fuse float.tif float.tif -o c.png {MODEL}": ".png cannot hold float pixels",
    f"fuse a.png b.png -o c.png {MODEL} --tile 30": "tile is 30",
    f"fuse a.png b.png -o c.png {MODEL} --tile -4": "tile is -4",
    f"fuse a.png b.png -o c.png {MODEL} --tile 8 --overlap 8": "overlap is 8",
    f"fuse a.png b.png -o c.png {MODEL} --tile big": "invalid int value",
    f"fuse a.png b.png -o c.png {MODEL} --quality 0": "--quality is 0",
    f"fuse a.png b.png -o c.png {MODEL} --padding mirror": "invalid choice",
    f"fuse a.png b.png a.png -o c.png {MODEL} --score": "exactly two sources",
    f"fuse a.png b.png {MODEL}": "arguments are required: -o",
    "fuse a.png b.png -o c.png --model mgdn-mfx": "there is no model 'mgdn-mfx'",
    "fuse a.png b.png -o c.png --model none.safetensors": "none.safetensors does not exist",
    "fuse a.png b.png -o c.png --model cut.safetensors": "cut.safetensors",
    "fuse a.png b.png -o c.png --model foreign.safetensors": "foreign.safetensors",
    "fuse a.png b.png -o c.png --model misfit.safetensors": "do not fit the network",
    "fuse a.png b.png -o c.png --model old.pth": "mgdn convert",
    "fuse a.png b.png -o c.png --model a.png": "a.png",
    "fuse a.png b.png -o c.png --model dir": "dir is a folder",
    "convert missing.pth d.safetensors --system mgdn --preset mff": "missing.pth",
    "convert old.pth d.safetensors --system mgdn --preset mfx": "no preset 'mfx'",
    "convert old.pth d.safetensors --system none --preset mff": "no system 'none'",
    "convert old.pth d.safetensors --system mgdn --preset mff": "old.pth",
    "data prepare pairs --source missing --out set": "missing",
    "data prepare zebra --source dir --out set": "zebra",
    "": "arguments are required: COMMAND",
    "fly": "invalid choice",
    "models --fast": "unrecognized arguments",
    "models none.safetensors": "none.safetensors does not exist",
    "models m.safetensors foreign.safetensors": "foreign.safetensors: was not written by mgdn_jax",
    "models mgdn-mfx": "there is no model 'mgdn-mfx'; did you mean 'mgdn-mff'?",
    "models old.pth": "mgdn convert",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_sentence_exit_2_and_no_debris(command, capsys):
    before = everything()
    assert mgdn(command) == 2
    said = capsys.readouterr()
    assert BAD[command] in said.err
    assert said.err.startswith("mgdn: error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out in ("", f"model   {said.out[8:]}")
    assert everything() == before


def test_without_write_permission(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = everything()
    assert mgdn(f"fuse a.png b.png -o c.png {MODEL}") == 2
    assert "is not writable" in capsys.readouterr().err
    assert everything() == before


def test_a_full_disk_keeps_the_old_result(monkeypatch, capsys):
    save_pictures("c.png", shape=(3, 3, 3))
    before, content = everything(), Path("c.png").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert mgdn(f"fuse a.png b.png -o c.png {MODEL} --quiet") == 2
    said = capsys.readouterr().err
    assert said.startswith("mgdn: error: ")
    assert "c.png cannot be written (no space left on device)" in said
    assert everything() == before
    assert Path("c.png").read_bytes() == content


def test_ctrl_c_while_fusing_and_while_writing(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = everything()
    for place, name in ((fuser.Fuser, "_call"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupt)
            assert mgdn(f"fuse a.png b.png -o c.png {MODEL} --quiet") == 130
        assert capsys.readouterr() == ("", "mgdn: interrupted.\n")
        assert everything() == before


def test_ctrl_c_in_a_callback_of_the_collector_is_not_lost(monkeypatch, capsys):
    """Python drops what such a callback raises, and JAX has one."""

    def interrupted(phase, _):
        gc.callbacks.remove(interrupted)
        raise KeyboardInterrupt

    def call(*_, **__):
        gc.callbacks.append(interrupted)
        gc.collect()
        for _ in range(1000):
            time.sleep(0.001)
        raise AssertionError("it went on")

    monkeypatch.setattr(fuser.Fuser, "_call", call)
    before = everything()
    assert mgdn(f"fuse a.png b.png -o c.png {MODEL} --quiet") == 130
    assert capsys.readouterr() == ("", "mgdn: interrupted.\n")
    assert everything() == before


def test_out_of_memory_is_no_traceback(monkeypatch, capsys):
    def exhaust(*_, **__):
        raise MemoryError

    monkeypatch.setattr(fuser.Fuser, "_call", exhaust)
    assert mgdn(f"fuse a.png b.png -o c.png {MODEL} --quiet") == 2
    assert "out of memory" in capsys.readouterr().err


def test_failures_of_our_own_are_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(fuser.Fuser, "_call", fail)
    with pytest.raises(ZeroDivisionError):
        mgdn(f"fuse a.png b.png -o c.png {MODEL} --quiet")


def test_models_as_table_and_json(monkeypatch, tmp_path, capsys):
    from mgdn_jax.weights import zoo

    card = {"task": "multi-focus", "inputs": ["near", "far"], "figures": {"Qabf": 0.76543}}
    folder = tmp_path / "weights"
    monkeypatch.setattr(zoo, "weights_folder", lambda: folder)
    assert cli.main(["models"]) == 0
    assert "no networks are bundled" in capsys.readouterr().out
    save_weights(
        folder / "demo.safetensors",
        system="fake_fusion",
        config=Config().to_dict(),
        params={"bias": np.zeros((), np.float32)},
        card=card,
    )
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    for part in ("demo", "multi-focus", "fake_fusion, 1 parameters", "near, far", "Qabf 0.7654"):
        assert part in said
    systems = said[said.index("systems to train or to load weights of") :].splitlines()
    assert systems[1:] == [
        f"  {name:<11}{package}" for name, package in finding.list_systems().items()
    ]
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["demo"]["card"] == card


def test_weight_files_are_described_like_bundled_ones(capsys):
    assert cli.main(["models", "m.safetensors", "mgdn-mff"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("m.safetensors\n  system     fake_fusion, 1 parameters\n")
    assert "\nmgdn-mff\n  task       multi-focus" in said
    assert "systems to train" not in said
    assert cli.main(["models", "m.safetensors", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["m.safetensors"]
    assert (about["system"], about["parameters"]) == ("fake_fusion", 1)
    assert about["config"]["window"] == Config().window


def run(*arguments):
    command = [sys.executable, "-m", "mgdn_jax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from mgdn_jax.cli import main as cli\n"
        "codes = [cli.main([a]) for a in ('--help', '--version', 'fly')]\n"
        "heavy = {'jax', 'numpy', 'PIL', 'torch', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(0 if codes == [0, 0, 2] and not heavy else f'{codes} {heavy}')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "fuse two pictures" in ran.stdout
    assert "\nmgdn 0." in ran.stdout


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from mgdn_jax.cli.main import main; sys.exit(main(['models', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert said == b""


def test_the_module_runs_like_the_command():
    ran = run("fuse", "missing.png", "b.png", "-o", "c.png")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "mgdn: error: missing.png does not exist; check the path.\n"
