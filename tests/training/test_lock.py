"""One run at a time in a workdir, whoever was there before and however it ended."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading

import fake_recipe
import pytest
from helpers_runs import log

from mgdn_jax import training
from mgdn_jax.errors import InputError
from mgdn_jax.io.disk import WriteError
from mgdn_jax.training import lock as lock_module
from mgdn_jax.training.lock import NAME, Lock, TakenOverError

ME = lock_module._myself()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def lock(tmp_path, lines):
    return Lock(tmp_path, lines.append)


def leave(folder, **changes):
    """A lock as an owner left it."""
    path = folder / NAME
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(ME, **changes))))
    return path


def test_a_workdir_is_kept_and_given_free(tmp_path, lock, lines):
    with lock:
        kept = json.loads((tmp_path / NAME).read_text())
        assert (kept["pid"], kept["host"]) == (os.getpid(), ME.host)
        words = rf"{tmp_path}: process {os.getpid()} on {ME.host} trains here since \d{{4}}-"
        with pytest.raises(InputError, match=words) as caught, Lock(tmp_path):
            pass
        assert "\n" not in str(caught.value)
        (tmp_path / "link").symlink_to(tmp_path)  # the same folder by another name
        with pytest.raises(InputError, match="trains here since"), Lock(tmp_path / "link"):
            pass
        lock.check()
    assert not (tmp_path / NAME).exists()
    assert not [t for t in threading.enumerate() if t.name == "mgdn_jax: lock"]
    with Lock(tmp_path, lines.append):
        pass
    assert not lines


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, lock, lines):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = lock_module._started(child.pid)
    leave(tmp_path, pid=child.pid, started=started, token="other")
    with pytest.raises(InputError, match=f"process {child.pid} on {ME.host} trains here"), lock:
        pass
    child.send_signal(signal.SIGKILL)
    # Dead, though nobody has asked for its exit code yet.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with lock:
        assert lines == [f"{tmp_path}: process {child.pid} on {ME.host}, which trained here, has"
                         " gone"]  # fmt: skip
    child.communicate()


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "1"},  # our own id, which belonged to another process before
        {"pid": 2**22 + 1},  # an id that no process can have
        {"pid": 10**30},
    ],
)
def test_an_id_that_is_another_process_now_does_not_count(tmp_path, lock, lines, changes):
    leave(tmp_path, token="other", **changes)
    with lock:
        assert "has gone" in lines[0]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 300, b"[]", b"3", b"{}", b"{", b"[" * 60000, b"\xff\xfe", b"x" * 100_000),
        b'{"host": 3, "pid": "x", "started": [], "machine": "", "since": "", "token": ""}',
        b'{"host": "", "pid": -1, "started": "", "machine": "", "since": "", "token": ""}',
        b'{"host": "", "pid": true, "started": "", "machine": "", "since": "", "token": ""}',
    ],
)
def test_a_damaged_lock_is_written_anew(tmp_path, lock, lines, content):
    (tmp_path / NAME).write_bytes(content)
    with lock:
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        damaged = content.strip(b"\0") != b""
        assert lines == [f"warning: {tmp_path / NAME} was damaged, and is written anew"] * damaged


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(lock_module, "PULSE", 0.1)
    monkeypatch.setattr(lock_module, "PATIENCE", 1.0)


def test_an_owner_on_another_machine_that_is_silent_has_gone(tmp_path, lock, lines, hasty):
    leave(tmp_path, host="node7", machine="other", token="other")
    with lock:
        pass
    assert lines == [
        f"{tmp_path}: process {os.getpid()} on node7 trained here; waiting 1 s for a sign of it",
        f"{tmp_path}: process {os.getpid()} on node7, which trained here, has gone",
    ]


def test_an_owner_on_another_machine_that_renews_its_lock_is_respected(
    tmp_path, lock, hasty, monkeypatch
):
    with lock:
        monkeypatch.setattr(lock_module, "_machine", lambda: "other")
        words = f"process {os.getpid()} on {ME.host} trains here since"
        with pytest.raises(InputError, match=words), Lock(tmp_path):
            pass
    assert not (tmp_path / NAME).exists()


def test_an_owner_that_leaves_meanwhile_is_not_waited_for(tmp_path, lock, hasty, monkeypatch):
    monkeypatch.setattr(lock_module, "PATIENCE", 60.0)
    path = leave(tmp_path, machine="other", token="other")
    threading.Timer(0.3, path.unlink).start()
    with lock:
        assert json.loads(path.read_text())["token"] != "other"


def test_who_was_taken_over_notices(tmp_path, lock, hasty):
    with lock:
        path = leave(tmp_path, host="node8", pid=5, token="other")
        lock._thread.join(60)
        with pytest.raises(TakenOverError, match="process 5 on node8 has taken this run over"):
            lock.check()
    assert path.exists()  # it is theirs


def test_a_lock_that_somebody_removed_comes_back(tmp_path, lock, hasty):
    with lock:
        (tmp_path / NAME).unlink()
        waited = threading.Event()
        for _ in range(300):
            if (tmp_path / NAME).exists() and (tmp_path / NAME).stat().st_size:
                break
            waited.wait(0.05)
        lock.check()
        assert json.loads((tmp_path / NAME).read_text())["token"] == lock._owner.token


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe", "device"])
def test_what_is_no_file_is_refused(tmp_path, lock, kind):
    path, target = tmp_path / NAME, tmp_path / "target"
    if kind == "link":
        target.write_text("precious")
    if kind in ("link", "dangling"):
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/full")
    with pytest.raises(InputError, match="is a link or no ordinary file; remove it"), lock:
        pass
    assert kind != "link" or target.read_text() == "precious"
    assert kind != "dangling" or not target.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_takes_no_lock_is_one_sentence(tmp_path, lock, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open" if number in (errno.EROFS, errno.EACCES) else "pwrite", refuse)
    reason = os.strerror(number)[1:]
    with pytest.raises(WriteError, match=rf"{NAME} cannot be written \(.{reason}\)"), lock:
        pass
    monkeypatch.undo()
    with Lock(tmp_path):
        pass


def test_a_file_system_without_locks_of_its_own_will_do(tmp_path, lock, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)
    with lock, pytest.raises(InputError, match="trains here since"), Lock(tmp_path):
        pass


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path, monkeypatch):
    class Visited(fake_recipe.Loader):
        def __next__(self):
            if self.position == 2:
                with pytest.raises(InputError, match=f"process {os.getpid()} on"):
                    training.fit(config, tmp_path, quiet=True)
            return super().__next__()

    monkeypatch.setattr(fake_recipe, "Loader", Visited)
    config = fake_recipe.config(devices=1, steps=4)
    assert training.fit(config, tmp_path, quiet=True).status == "complete"
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4]
    assert not (tmp_path / NAME).exists()
