"""`python train.py` as a process: exit codes, real kills, several processes."""

import pathlib
import random
import signal
import socket
import time

import fake_meta
import fake_recipe
import numpy as np
import pytest
from helpers import xla_flags
from helpers_runs import finish, log, losses, newest, start, train_here, wait_for_step

from configs import mgdn
from mgdn_jax import training
from mgdn_jax.weights.store import load_weights


def reference(workdir, module=fake_recipe, **train):
    """The same run in this process, from start to end, on as many devices."""
    training.fit(module.config(**train), workdir, quiet=True)


@pytest.mark.parametrize(("module", "kills"), [(fake_recipe, 3), (fake_meta, 1)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, module, kills):
    reference(tmp_path / "whole", module, steps=60, save_every=4, devices=1)
    config = f"--config=tests/{module.__name__}.py"
    command = ["--config.train.steps=60", "--config.train.save_every=4", "--config.train.devices=1"]
    slowly = ["--config.data.train.delay=0.02"]
    rng = random.Random(20240607)
    moments = sorted(rng.sample(range(3, 58), kills))
    workdir = tmp_path / "killed"
    for moment in moments:
        process = start(workdir, *command, *slowly, config=config)
        wait_for_step(workdir, moment, process)
        time.sleep(rng.random() * 0.05)
        process.kill()
        code, out = finish(process)
        assert code == -signal.SIGKILL, out
    code, out = finish(start(workdir, *command, *slowly, config=config))
    assert code == 0, out
    assert "from step 0 " not in out
    (step, whole, header), (other_step, killed, other_header) = (
        newest(tmp_path / name) for name in ("whole", "killed")
    )
    assert step == other_step == 60
    assert header["data"] == other_header["data"]
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        assert value.tobytes() == killed[name].tobytes(), name
    one, other = (load_weights(tmp_path / n / "fake.safetensors") for n in ("whole", "killed"))
    for name, value in one.params.items():
        assert value.tobytes() == other.params[name].tobytes(), name
    assert losses(tmp_path / "whole") == losses(workdir)
    assert len(log(workdir)) == 60


def test_two_processes_give_the_same_trajectory_and_stop_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    def both(*arguments):
        several = [f"--coordinator=localhost:{port}", "--processes=2"]
        return [
            start(tmp_path / "two", *several, f"--process={i}", *arguments, XLA_FLAGS=xla_flags(1))
            for i in range(2)
        ]

    # The signal reaches the second process only; both must stop at the same step.
    pair = both("--config.train.steps=5000", "--config.data.train.delay=0.02")
    wait_for_step(tmp_path / "two", 3, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    for code, out in map(finish, pair):
        assert code == 0, out
    stopped = log(tmp_path / "two")[-1]["step"]
    assert 3 <= stopped < 5000
    assert newest(tmp_path / "two")[0] == stopped
    # Both go on from what the first one reads.
    steps = stopped + 4
    for code, out in map(
        finish, both(f"--config.train.steps={steps}", "--config.data.train.delay=0.02")
    ):
        assert code == 0, out
    reference(tmp_path / "one", steps=steps, devices=1)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == steps
    np.testing.assert_allclose(two, one, rtol=1e-5)
    alone, shared = (newest(tmp_path / name)[1] for name in ("one", "two"))
    for name, value in alone.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
    metrics = [load_weights(tmp_path / n / "fake.safetensors").card["held_out"]
               for n in ("one", "two")]  # fmt: skip
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
    # They go on by a mesh, and find each other as Slurm's. One is killed: the other one says so.
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost,other", "SLURM_NTASKS": "2"}
    fields = "steps=5000", "log_every=1", "parallel=mesh"
    command = [f"--config.train.{field}" for field in fields]
    command += ["--distributed=auto", "--config.data.train.delay=0.02"]
    pair = [
        start(
            *(tmp_path / "two", *command), **slurm, JAX_COORDINATOR_PORT=str(port),
            SLURM_PROCID=str(i), SLURM_LOCALID=str(i), XLA_FLAGS=xla_flags(1),
        )
        for i in range(2)
    ]  # fmt: skip
    wait_for_step(tmp_path / "two", steps + 1, pair[0])
    pair[1].kill()
    killed = time.monotonic()
    code, out = finish(pair[0])
    assert time.monotonic() - killed < 60
    assert code == 3, out
    last = out.splitlines()[-1]
    assert last.startswith(f"error: process 1 of 2 (pid {pair[1].pid} on ")
    assert f"the last good checkpoint is {tmp_path / 'two' / 'checkpoints' / str(steps)};" in last
    finish(pair[1])


def test_sigterm_exits_0_and_a_diverged_run_exits_1(tmp_path):
    slowly = ["--config.train.steps=5000", "--config.data.train.delay=0.02"]
    process = start(tmp_path, *slowly, "--config.train.devices=1")
    wait_for_step(tmp_path, 2, process)
    process.terminate()
    code, out = finish(process)
    assert code == 0, out
    step = newest(tmp_path)[0]
    assert f"stopped and saved at step {step}; run it again to go on" in out
    code, out = finish(
        start(
            tmp_path / "nan",
            "--config.recipe.poison=13",
            "--config.train.save_every=1",
            "--config.train.devices=1",
        )
    )
    assert code == 1, out
    last = out.splitlines()[-1]
    assert last.startswith("error: loss became nan at step 2; the last good checkpoint is")
    assert f"{tmp_path / 'nan' / 'checkpoints' / '1'};" in last


SMOKE = "--config=configs/mgdn.py:smoke"


@pytest.mark.parametrize(
    ("config", "argument", "words"),
    [
        (SMOKE, "--config.train.stepz=3", "no field 'stepz'; did you mean 'steps'?"),
        (SMOKE, "--config.trian.steps=3", "no field 'trian'; did you mean 'train'?"),
        (SMOKE, "--config.model.qqqq=3", "no field 'qqqq'; see the config file"),
        (SMOKE, "--config.train.steps=abc", "--config.train.steps=abc: invalid literal"),
        (SMOKE, "--wrokdir=x", "Unknown command line flag wrokdir"),
        (SMOKE, "word", "'word' is not a flag"),
        (
            "--config=configs/mgdn.py:smok",
            "--quiet",
            "no preset smok; choose from mff, mff_cpu, mef",
        ),
        ("--config=configs/nope.py", "--quiet", "configs/nope.py: there is no such config"),
        ("--quiet", "--noquiet", "--config and --workdir are both needed"),
    ],
)
def test_bad_commands_are_one_sentence_and_exit_2(
    tmp_path, capsys, monkeypatch, config, argument, words
):
    code = train_here(monkeypatch, tmp_path / "run", argument, config=config)
    said = capsys.readouterr()
    out = said.out + said.err
    assert code == 2, out
    assert out.startswith("error: ")
    assert words in out
    assert len(out.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_cpu_counts_as_several_devices(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for workdir, devices in ((one, 1), (two, 2)):
        arguments = f"--cpu_devices={devices}", "--config.train.steps=8"
        code, out = finish(start(workdir, *arguments, XLA_FLAGS=xla_flags()))
        assert code == 0, out
        assert f"on 1 x {devices} cpu" in out
    for mine, other in zip(log(one), log(two), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_cpu_is_not_split_too_late():
    from mgdn_jax.errors import InputError
    from mgdn_jax.training import processes

    assert len(processes.local_devices(0)) == 4
    with pytest.raises(InputError, match="used its devices already"):
        processes.split_cpu(2)


def test_bad_runs_are_one_sentence_and_exit_2(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    # The devices of this process are counted already: this one needs a process of its own.
    code, out = finish(start(tmp_path / "uneven", "--cpu_devices=3"))
    assert code == 2, out
    assert "does not divide" in out
    assert len(out.strip().splitlines()) == 1
    for workdir, arguments, words in [
        ("file", (), "file: cannot be made"),
        ("run", ("--config.train.epochs=3.0",), "exactly one of train.steps"),
        ("run", ("--coordinator=localhost:1",), "several processes need --processes as well"),
        ("run", ("--cpu_devices=0",), "cpu_devices is 0 and must be 1 or more"),
    ]:
        code = train_here(monkeypatch, tmp_path / workdir, *arguments)
        said = capsys.readouterr()
        out = said.out + said.err
        assert code == 2, out
        assert words in out
        assert len(out.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", mgdn.PRESETS)
def test_shipped_configs_are_good(preset):
    from mgdn_jax.training import config as run_config
    from mgdn_jax.training import plan as run_plan
    from mgdn_jax.training.setup import read_recipe

    config = mgdn.get_config(preset)
    run = run_config.check(config.to_dict())
    assert run.name == f"mgdn-{preset.partition('_')[0]}"
    recipe = read_recipe(run)
    plan = run_plan.stretches(recipe.phases, run.train.steps)
    assert run_plan.optimisers(run.optimiser, plan)[0].keys() == set(recipe.networks)
    # Four tasks share the file; a task has 60 lines.
    assert len(pathlib.Path(mgdn.__file__).read_text().splitlines()) <= 240
