"""Networks and rules camera by camera: figures, ranks, and the row of weights that lack a set."""

import csv

import numpy as np

from benchmarks import cameras


def test_ranks_are_by_set_and_of_the_means(pairs, tmp_path, capsys, monkeypatch):
    def darker(word):
        return lambda a, b: np.minimum(a, b) // (2 if word == "dim" else 1)

    monkeypatch.setattr(cameras, "network", darker)
    monkeypatch.setattr(cameras, "COLUMNS", ("EN", "SD"))
    monkeypatch.setattr(cameras, "RULES", ["base_max"])
    told = ["--sets", "ivf", "--split", "train", "--limit", "2", "--weights", "net"]
    target = tmp_path / "rows.csv"
    assert cameras.main([*told, "--without", "ivf=dim", "--csv", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "ivf: 2 pairs" in printed
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert {row["set"] for row in rows} == {"ivf", "mean"}
    assert [row["method"] for row in rows[:3]] == ["base_max", "net", cameras.WITHOUT]
    assert float(rows[2]["SD"]) < float(rows[1]["SD"])
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    assert lines[-1].startswith(f"| {cameras.WITHOUT} |")


def test_every_set_or_none_has_weights_without_it(capsys):
    assert cameras.main(["--sets", "a", "b", "--without", "a=x"]) == 2
    assert "for every one of --sets" in capsys.readouterr().err
