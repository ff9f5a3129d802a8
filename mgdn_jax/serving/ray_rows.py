"""The rows of a run on a cluster: counted, and written as JSON lines or CSV."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from pathlib import Path
from typing import Any

from mgdn_jax.errors import InputError
from mgdn_jax.io import disk, files
from mgdn_jax.serving import ray_workers

COLUMNS = ("name", "status", "output", "error", "warnings", "seconds", "worker")
"""What a row in a file holds; `status` is written, skipped or failed."""


class Table:
    """Takes rows one by one; what it keeps of each is a name.

    Args:
        path: file for them, ``.jsonl`` or ``.csv``, which appears when it is complete; None writes
            none.

    Attributes:
        written: names.
        skipped: names.
        found: names of `written` that a lost worker had written.
        failed: name to sentence.
        warnings: sentences, each once.
        done: pairs that have a row.
        lost: workers that were lost while they fused.

    Raises:
        InputError: another suffix, or a place that cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None):
        self.written: list[str] = []
        self.skipped: list[str] = []
        self.found: list[str] = []
        self.failed: dict[str, str] = {}
        self.warnings: dict[str, None] = {}
        self.done = 0
        self.lost = 0
        self._processes: set[str] = set()
        self._file = None if path is None else _File(Path(path))

    def gap(self, name: str, sentence: str) -> None:
        """A picture lacks its partner."""
        self.failed[name] = sentence
        row = {"status": ray_workers.FAILED, "error": sentence}
        self._write(name, "", row | {"warnings": "", "seconds": 0.0, "worker": ""})

    def add(self, name: str, output: Path, row: dict[str, Any]) -> None:
        """A pair is done.

        Args:
            name: of the result.
            output: its file.
            row: as a worker gave it.
        """
        self.done += 1
        status = row["status"]
        if status == ray_workers.FAILED:
            self.failed[name] = row["error"]
        elif status == ray_workers.SKIPPED:
            self.skipped.append(name)
        else:
            self.written.append(name)
        if status == ray_workers.FOUND:
            self.found.append(name)
        self.warnings |= dict.fromkeys(filter(None, row["warnings"].split("\n")))
        self.lost += row["losses"]
        self._processes.add(row["worker"])
        self._write(name, "" if status == ray_workers.FAILED else os.fspath(output), row)

    @property
    def workers(self) -> int:
        """Processes that gave rows."""
        return len(self._processes)

    def _write(self, name: str, output: str, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        status = ray_workers.WRITTEN if row["status"] == ray_workers.FOUND else row["status"]
        values = row | {"name": name, "output": output, "status": status}
        self._file.add({column: values[column] for column in COLUMNS})

    def write(self) -> None:
        """All rows are there: the file appears.

        Raises:
            WriteError: it cannot.
        """
        if self._file is not None:
            self._file.publish()

    def close(self) -> None:
        """Removes a file that is not complete."""
        if self._file is not None:
            self._file.close()


class _File:
    """Rows on their way into a file, which has a hidden name until it is complete."""

    def __init__(self, path: Path):
        if path.suffix.lower() not in (".jsonl", ".csv"):
            raise InputError(f"{path}: rows are written as .jsonl or .csv; name such a file.")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file for the rows.")
        files.check_folder(path.parent, os.fspath(path))
        self._path, self._is_csv = path, path.suffix.lower() == ".csv"
        try:
            self._hidden = disk.hidden_beside(path)
            self._file = open(self._hidden, "w", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as error:
            raise disk.WriteError(path, error) from error
        if self._is_csv:
            csv.writer(self._file).writerow(COLUMNS)

    def add(self, line: dict[str, Any]) -> None:
        try:
            if self._is_csv:
                texts = [disk.encoded(str(value)).decode() for value in line.values()]
                csv.writer(self._file).writerow(texts)
            else:
                self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise disk.WriteError(self._path, error) from error

    def publish(self) -> None:
        try:
            self._file.close()
            disk.publish(self._hidden, self._path)
        except OSError as error:
            raise disk.WriteError(self._path, error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._hidden.unlink(missing_ok=True)
