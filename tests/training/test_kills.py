"""Real small runs that are killed at random moments, lose a partner, fill their disk or go on long.

They are killed MGDN_KILLS times (50), and two fifths of that where there are two processes.
"""

import contextlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import threading
import time

import pytest
from helpers_kills import Run, ended, prepare, same, small_disk

from mgdn_jax.training.partners import EXIT_LOST

KILLS = int(os.environ.get("MGDN_KILLS", "50"))
STEPS = 6
"""New steps between two kills, on average."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("kills"))


def fields(steps):
    return {"steps": steps, "log_every": 1, "save_every": 3, "eval_every": 20}


def say(line):
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def kill_often(sets, folder, kills, seed):
    """One run, killed again and again, against one that is left alone."""
    steps = max(STEPS * kills, 12)
    Run(sets, folder / "whole", **fields(steps)).finish()
    run = Run(sets, folder / "killed", **fields(steps))
    rng = random.Random(seed)
    counts = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    early = 0
    for turn in range(kills):
        number = signal.SIGTERM if turn % 5 == 4 else signal.SIGKILL
        (process,) = run.start()
        if turn % 7 == 6:
            time.sleep(rng.random() * 8)  # while it starts, compiles or restores
            early += 1
        else:
            run.wait_for(min(run.step() + rng.randint(1, 2 * STEPS - 2), steps - 1), process)
            time.sleep(rng.random() * 0.05)
        process.send_signal(number)
        code, out, err = ended(process, 300)
        counts[number] += 1
        assert "Traceback" not in err, err
        # A run may have come to its end, and a signal may come before anybody heeds it.
        assert code in (-number, 0), out + err
        say(f"kill {turn + 1}: {signal.Signals(number).name} at step {run.step()}, exit {code}")
    run.finish()
    same(folder / "whole", folder / "killed")
    say(f"{counts[signal.SIGKILL]} x SIGKILL, {counts[signal.SIGTERM]} x SIGTERM ({early} of them"
        f" before the first step), {steps} steps: equal bit for bit")  # fmt: skip


@pytest.mark.long
def test_killed_at_random_moments_it_resumes_to_the_same_bits(sets, tmp_path):
    kill_often(sets, tmp_path, KILLS, seed=20250725)


def lose_often(sets, folder, kills, seed):
    """A run of two processes, of which one is killed again and again."""
    steps = max(STEPS * kills, 12)
    Run(sets, folder / "whole", processes=2, **fields(steps)).finish()
    run = Run(sets, folder / "killed", processes=2, **fields(steps))
    rng = random.Random(seed)
    slowest = 0.0
    for turn in range(kills):
        number = (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP)[turn % 3]
        victim = rng.randrange(2)
        pair = run.start()
        run.wait_for(min(run.step() + rng.randint(1, 2 * STEPS - 2), steps - 1), pair[0])
        time.sleep(rng.random() * 0.05)
        pair[victim].send_signal(number)
        begun = time.monotonic()
        code, out, err = ended(pair[1 - victim], 60)
        seconds = time.monotonic() - begun
        pair[victim].kill()
        ended(pair[victim], 60)
        slowest = max(slowest, seconds)
        say(f"kill {turn + 1}: {number.name} of process {victim}, the other one ended after"
            f" {seconds:.1f} s with {code}: {err.strip()}")  # fmt: skip
        assert code == EXIT_LOST, out + err
        (sentence,) = err.strip().splitlines()
        assert re.match(rf"error: process {victim} of 2 ", sentence)
        assert ("the last good checkpoint is" in sentence) == (victim == 1 and run.step() > 3)
        assert sentence.endswith("start all processes again to go on.")
    run.finish()
    same(folder / "whole", folder / "killed")
    say(f"{kills} times a partner was lost, recognised within {slowest:.1f} s; {steps} steps: equal"
        " bit for bit")  # fmt: skip


@pytest.mark.long
def test_a_lost_partner_ends_the_others_and_all_resume(sets, tmp_path):
    lose_often(sets, tmp_path, max(KILLS * 2 // 5, 1), seed=20250726)


def fill(folder):
    """Fills a disk to the last byte."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.long
def test_a_full_disk_ends_it_in_one_sentence_and_it_resumes(sets, tmp_path):
    steps = 40
    Run(sets, tmp_path / "whole", **fields(steps)).finish()
    with small_disk(tmp_path / "disk", 64) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a tmpfs; the next test does it by a limit")
        run = Run(sets, tmp_path / "disk" / "run", **fields(steps))
        for moment in (5, 9, 12, 14, 19):
            (process,) = run.start()
            run.wait_for(moment, process)
            fill(tmp_path / "disk")
            code, out, err = ended(process, 120)
            say(f"full at step {run.step()}: exit {code}: {err.strip()}")
            refused(run, code, out, err, "no space left on device")
            (tmp_path / "disk" / "filler").unlink()
        run.finish()
        same(tmp_path / "whole", run.workdir)


@pytest.mark.long
def test_a_limit_on_files_ends_it_in_one_sentence_and_it_resumes(sets, tmp_path):
    steps = 40
    Run(sets, tmp_path / "whole", **fields(steps)).finish()
    run = Run(sets, tmp_path / "limited", **fields(steps))
    for moment in (5, 9, 12, 14, 19):
        (process,) = run.start()
        run.wait_for(moment, process)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
        code, out, err = ended(process, 120)
        say(f"limited at step {run.step()}: exit {code}: {err.strip()}")
        refused(run, code, out, err, "file too large")
    run.finish()
    same(tmp_path / "whole", run.workdir)


def refused(run, code, out, err, reason):
    """Asserts that a run ended for a file that cannot be written."""
    assert code == 1, out + err
    (sentence,) = err.strip().splitlines()
    assert f"cannot be written ({reason}); training ends at step" in sentence
    good = re.search(r"the last good checkpoint is (\S+);", sentence)
    assert good is None or pathlib.Path(good[1]).is_dir()
    assert (good is None) == ("there is no checkpoint yet" in sentence)


@pytest.mark.long
def test_a_second_start_is_refused_and_harms_nobody(sets, tmp_path):
    steps = 40
    Run(sets, tmp_path / "whole", **fields(steps)).finish()
    run = Run(sets, tmp_path / "twice", **fields(steps))
    (first,) = run.start()
    run.wait_for(4, first)
    (second,) = run.start()
    code, out, err = ended(second, 300)
    assert code == 2, out + err
    assert re.fullmatch(rf"error: {run.workdir}: process {first.pid} on \S+ trains here since .*\n",
                        err)  # fmt: skip
    assert ended(first, 300)[0] == 0
    same(tmp_path / "whole", run.workdir)


def measures(pid):
    """(resident megabytes, threads, open files) of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    resident, threads = (
        int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")
    )
    return resident / 1024, threads, len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.long
def test_thousands_of_steps_take_no_more_than_hundreds(sets, tmp_path):
    steps = int(os.environ.get("MGDN_SOAK", "5000"))
    cache = tmp_path / "cache"
    run = Run(
        sets,
        tmp_path / "run",
        variables={"JAX_COMPILATION_CACHE_DIR": str(cache)},
        **{"steps": steps, "log_every": 10, "save_every": 50, "eval_every": 100},
    )
    (process,) = run.start()
    seen = {}
    with open(tmp_path / "out", "w") as out:  # a pipe that nobody reads would fill
        reader = threading.Thread(target=shutil.copyfileobj, args=(process.stdout, out))
        reader.start()
        while process.poll() is None:
            step = run.step()
            if step >= 200:
                with contextlib.suppress(OSError, TypeError):  # it has ended just now
                    seen[step] = (*measures(process.pid), len(list(cache.iterdir())))
            time.sleep(1)
        reader.join()
    assert process.wait() == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    early = [value for step, value in seen.items() if step < 600]
    late = [value for step, value in seen.items() if step > steps - 600]
    for name, number in (("threads", 1), ("files", 2), ("compiled programs", 3)):
        # A save in the background takes some of its own: what is there without counts.
        first, last = (min(value[number] for value in part) for part in (early, late))
        say(f"{name}: {first} up to step 600, {last} in the last 600 of {steps}")
        assert last <= first + 2, name
    memory = [value[0] for value in seen.values()]
    first, worst = max(value[0] for value in early), max(memory)
    say(f"MB: {memory[0]:.0f} at step {min(seen)}, at most {first:.0f} up to step 600, at most"
        f" {worst:.0f} up to step {steps}")  # fmt: skip
    assert worst <= 1.05 * memory[0]
    left = sorted(path.name for path in run.workdir.iterdir())
    assert left == ["checkpoints", "config.json", "grids", "log.jsonl", "mgdn-smoke.md",
                    "mgdn-smoke.safetensors", "tensorboard"]  # fmt: skip
    assert len(list((run.workdir / "checkpoints").iterdir())) <= 3
    assert len(list((run.workdir / "tensorboard").iterdir())) == 1
