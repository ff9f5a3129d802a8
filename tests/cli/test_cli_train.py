"""`mgdn train`: the flags of train.py, configs that come with the program, modules beside a config.

What follows runs in this process, up to where a run would start.
"""

import sys
import warnings

import helpers
import pytest

from mgdn_jax.cli import main as cli
from mgdn_jax.cli import train
from mgdn_jax.errors import InputError
from mgdn_jax.systems.finding import list_systems
from mgdn_jax.training.loop import Result, TrainingDivergedError, TrainingFailedError
from mgdn_jax.training.partners import PartnerLostError
from mgdn_jax.weights.store import load_weights

BESIDE = '''
"""A recipe beside its config."""

import fake_recipe


class Recipe(fake_recipe.Recipe):
    def card(self):
        return {"beside": True}
'''
CONFIG = """
import fake_recipe
import ml_collections


def get_config(preset=""):
    made = fake_recipe.config(steps=2, devices=1)
    made["name"] = preset or "plain"
    made["recipe"]["name"] = "recipe_beside_a_config"
    return ml_collections.ConfigDict(made)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """In a folder without configs; sys.path and modules are put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with warnings.catch_warnings():  # ml_collections loads modules in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    sys.modules.pop("recipe_beside_a_config", None)


@pytest.fixture
def calls(monkeypatch):
    """Runs that were started: (config, workdir, options)."""
    started = []

    def fit(config, workdir, **options):
        started.append((config, workdir, options))
        return Result("complete", 1)

    monkeypatch.setattr("mgdn_jax.training.loop.fit", fit)
    return started


def test_both_commands_do_the_same(tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    words = ["--config=mgdn:mff_cpu", "--workdir=w", "--config.train.batch=16", "--quiet"]
    assert cli.main(["train", *words]) == 0
    assert train.main(["train.py", *words]) == 0
    (one, place, options), (other, other_place, other_options) = calls
    assert one.to_dict() == other.to_dict()
    assert (one.train.batch, one.name, place) == (16, "mgdn-mff", "w")
    assert place == other_place
    assert options == {"command": "mgdn train " + " ".join(words), "quiet": True}
    assert other_options["command"] == "python train.py " + " ".join(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--config=refusion:smoke"],
        ["--config", "refusion:smoke"],
        ["-config=refusion:smoke"],
        ["--config=configs/refusion.py:smoke"],
        ["--config=refusion.py:smoke"],
    ],
)
def test_configs_come_with_the_program(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert train.parse([*words, "--workdir=w"]).config.name == "refusion-smoke"
    assert set(train.shipped_configs()) == set(list_systems())


def test_a_file_of_ones_own_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mgdn.py").write_text(CONFIG)
    assert train.parse(["--config=configs/mgdn.py:my", "--workdir=w"]).config.name == "my"
    assert train.parse(["--config=mgdn:mff", "--workdir=w"]).config.name == "mgdn-mff"


def test_a_recipe_beside_the_config_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "recipe_beside_a_config.py").write_text(BESIDE)
    (folder / "one.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    words = ["--config=experiments/one.py", f"--workdir={tmp_path / 'run'}", "--quiet"]
    assert cli.main(["train", *words]) == 0
    assert load_weights(tmp_path / "run" / "plain.safetensors").card["beside"]
    # At the end, so that no module of that folder hides another one.
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=mgdn:mff"], "--config and --workdir are both needed; usage: mgdn train"),
        (["--config=mgdn:mff", "--workdir=w", "x"], "'x' is not a flag; usage: mgdn train"),
        (
            ["--config=nope", "--workdir=w"],
            "--config=nope: there is no such config file, and none that comes with the program"
            f" ({', '.join(sorted(list_systems()))}); usage",
        ),
        (
            ["--config=mgdn:smoke", "--workdir=w", "--config.train.stepz=1"],
            "--config.train.stepz: the config has no field 'stepz'; did you mean 'steps'?",
        ),
        (["--config", "--workdir=w"], "--config and --workdir are both needed"),
        (["--config"], "Missing value for flag"),
        (
            ["--config=mgdn:smoke", "--workdir=w", "--process=1"],
            "several processes need --coordinator as well",
        ),
        (
            ["--config=mgdn:smoke", "--workdir=w", "--distributed=auto", "--processes=2"],
            "--distributed=auto detects what --processes (or MGDN_PROCESSES) says; leave one of",
        ),
        (
            ["--config=mgdn:smoke", "--workdir=w", "--distributed=slurm"],
            "flag --distributed=slurm: value should be one of <auto>; usage",
        ),
    ],
)
def test_wrong_commands_are_one_sentence(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mgdn: error: ")
    assert message in said
    assert len(said.splitlines()) == 1
    with pytest.raises(InputError):
        train.parse(words)
    assert not list(tmp_path.iterdir())


def test_exit_codes(tmp_path, monkeypatch, capsys):
    def fit(*args, **options):
        raise error

    monkeypatch.setattr("mgdn_jax.training.loop.fit", fit)
    words = ["--config=mgdn:smoke", f"--workdir={tmp_path}"]
    for error, code in [
        (TrainingDivergedError("loss became nan"), 1),
        (TrainingFailedError("log.jsonl cannot be written"), 1),
        (InputError("no data"), 2),
        (PartnerLostError("process 1 of 2 has ended without a word"), 3),
    ]:
        if code == 3:
            monkeypatch.setattr(train, "_advice", lambda options: "start again.")
        more = "; start again." if code == 3 else ""
        assert cli.main(["train", *words]) == code
        assert capsys.readouterr().err == f"mgdn: error: {error}{more}\n"
        assert train.main(["train.py", *words]) == code
        assert capsys.readouterr().err == f"error: {error}{more}\n"
    error = KeyboardInterrupt()
    assert cli.main(["train", *words]) == train.main(["train.py", *words]) == 130
    assert capsys.readouterr().err == "mgdn: interrupted.\ninterrupted.\n"


def test_help_names_every_flag(capsys):
    for words, program in ((["train", "--help"], "mgdn train"), (["train", "-h"], "mgdn train")):
        assert cli.main(words) == 0
        said = capsys.readouterr().out
        assert f"`{program} --config=mgdn:mff --workdir=runs/mff`" in said
    assert train.main(["train.py", "--help"]) == 0
    assert "`python train.py --config=mgdn:mff" in capsys.readouterr().out
    flags = ("cpu_devices", "distributed", "coordinator", "processes", "process", "quiet")
    for flag in ("config", *flags):
        assert f"--{flag}" in said
    assert cli.main(["--help"]) == 0
    assert "train a network" in capsys.readouterr().out


def test_several_processes_by_flags_or_environment(monkeypatch):
    words = ["--config=mgdn:smoke", "--workdir=w"]
    assert train.parse(words).membership == dict.fromkeys(("coordinator", "processes", "process"))
    both = {"coordinator": "h:1", "processes": 2, "process": 0}
    flags = [f"--{name}={value}" for name, value in both.items()]
    assert train.parse([*words, *flags]).membership == both
    for name, value in both.items():
        monkeypatch.setenv(f"MGDN_{name.upper()}", str(value))
    assert train.parse(words).membership == both
    assert train.parse([*words, "--process=1"]).membership["process"] == 1
    monkeypatch.setenv("MGDN_PROCESS", "first")
    with pytest.raises(InputError, match="MGDN_PROCESS is 'first' and must be a whole number"):
        train.parse(words)


def test_every_folder_of_code_is_a_package():
    """So that setup.py finds it, and takes configs/ along as one more."""
    folders = [helpers.ROOT / "configs", helpers.ROOT / "mgdn_jax"]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    assert not [path for path in sources if not (path.parent / "__init__.py").is_file()]
    assert '"mgdn_jax.configs": "configs"' in (helpers.ROOT / "setup.py").read_text()


def test_a_value_that_holds_a_fields_name_is_not_the_flag_to_blame():
    from mgdn_jax.cli.train import _sentence

    arguments = ["--config.recipe.name=experiments.charbonnier", "--config.recipe.charbonnier=2.0"]
    sentence = _sentence(KeyError("charbonnier"), arguments, "usage")
    assert sentence.startswith("--config.recipe.charbonnier: the config has no field 'charbonnier'")
