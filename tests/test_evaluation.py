import csv
import importlib.util
import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mgdn_jax import baselines, evaluation, files
from mgdn_jax import metrics as ruler
from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import Pair, Summary, Table, mean_ranks


def pictures(n, shape=(48, 50, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [
        Pair(f"p{i}", *(rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2)))
        for i in range(n)
    ]


def test_rows_are_the_metrics_of_the_fused_pictures():
    pairs = pictures(2)
    seen = []
    table = evaluation.evaluate_pairs(
        baselines.maximum,
        pairs,
        metrics=("EN", "VIF", "SSIM"),
        on_result=lambda name, fused, scores: seen.append((name, fused.shape, scores["EN"])),
    )
    assert table.columns == ("EN", "VIF", "SSIM_dr255")
    for pair in pairs:
        expected = ruler.evaluate(
            np.maximum(pair.a, pair.b), pair.a, pair.b, ("EN", "VIF", "SSIM_dr255")
        )
        assert table.rows[pair.name] == expected
    assert table.mean()["VIF"] == pytest.approx(np.mean([r["VIF"] for r in table.rows.values()]))
    assert seen == [(p.name, (48, 50, 3), table.rows[p.name]["EN"]) for p in pairs]


def test_the_variant_names_its_columns():
    table = evaluation.evaluate_pairs(
        baselines.mean, pictures(1), metrics=("SSIM", "PSNR"), variant="cddfuse"
    )
    assert table.columns == ("SSIM_dr2", "PSNR_peakF")


def test_a_failing_pair_does_not_lose_the_others(tmp_path):
    pairs = pictures(4)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pairs[1] = Pair("p1", pairs[1].a, broken)
    calls = []

    def fuse(a, b):
        calls.append(a.shape)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return a[:40] if len(calls) == 3 else a

    table = evaluation.evaluate_pairs(fuse, pairs, metrics=("EN",))
    assert list(table.rows) == ["p0"]
    assert list(table.failures) == ["p1", "p2", "p3"]
    assert "broken.png" in table.failures["p1"]
    assert table.failures["p2"] == "RuntimeError: out of memory"
    assert "fused 40x50" in table.failures["p3"]


def test_a_method_that_fails_leaves_the_other_methods_alone():
    def bad(a, b):
        raise ZeroDivisionError

    tables = evaluation.evaluate_methods(
        {"good": baselines.mean, "bad": bad}, pictures(2), metrics=("EN",)
    )
    assert len(tables["good"].rows) == 2
    assert not tables["good"].failures
    assert len(tables["bad"].failures) == 2
    with pytest.raises(ZeroDivisionError):
        evaluation.evaluate_pairs(bad, pictures(2), metrics=("EN",))


def test_bad_calls():
    pairs = pictures(1)
    with pytest.raises(InputError, match="no image pairs"):
        evaluation.evaluate_pairs(baselines.mean, [])
    with pytest.raises(InputError, match="two image pairs are called p0"):
        evaluation.evaluate_pairs(baselines.mean, pairs * 2, metrics=("EN",))
    with pytest.raises(InputError, match="unknown metric"):
        evaluation.evaluate_pairs(baselines.mean, pairs, metrics=("Q",))


def test_means_leave_out_what_is_not_finite():
    table = Table(
        ("CC", "PSNR_peakF", "EN"),
        {
            "x": {"CC": 0.5, "PSNR_peakF": math.inf, "EN": 1.0},
            "y": {"CC": math.nan, "PSNR_peakF": -math.inf, "EN": 2.0},
        },
    )
    mean = table.mean()
    assert mean["CC"] == 0.5
    assert math.isnan(mean["PSNR_peakF"])
    assert mean["EN"] == 1.5
    assert table.invalid() == {"CC": 1, "PSNR_peakF": 2}


def test_csv_of_a_table(tmp_path):
    table = evaluation.evaluate_pairs(baselines.mean, pictures(2), metrics=("EN", "MSE"))
    table.to_csv(tmp_path / "out.csv")
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows[0] == ["image", "EN", "MSE"]
    assert [row[0] for row in rows[1:]] == ["p0", "p1", "mean"]
    assert float(rows[1][1]) == table.rows["p0"]["EN"]
    assert float(rows[3][2]) == table.mean()["MSE"]


def test_mean_ranks_by_hand():
    rows = {
        "a": {"EN": 7.0, "MSE": 10.0, "CC": 0.9},
        "b": {"EN": 8.0, "MSE": 30.0, "CC": math.nan},
        "c": {"EN": 7.0, "MSE": 20.0, "CC": 0.95},
    }
    # EN: b 1, a and c share 2.5. MSE, lower is better: a 1, c 2, b 3. CC: c 1, a 2, NaN last.
    ranks = mean_ranks(rows, ("EN", "MSE", "CC"))
    assert ranks == pytest.approx({"a": 5.5 / 3, "b": 7 / 3, "c": 5.5 / 3})
    assert list(ranks) == ["a", "b", "c"]
    assert mean_ranks(rows, ("MSE",)) == {"a": 1, "b": 3, "c": 2}


def test_mean_ranks_refuse_gaps():
    with pytest.raises(InputError, match="b has no value of MI"):
        mean_ranks({"a": {"MI": 1.0}, "b": {}}, ("MI",))
    with pytest.raises(InputError, match="at least one metric"):
        mean_ranks({"a": {"MI": 1.0}}, ())


ANCHORS = """dataset,method,n,EN,SCD,PSNR,invalid
Set,base_max,20,7.41234,0.25000,26.00000,SCD=11
Set,other+jpeg75,20,7.00000,,25.00000,
"""


def test_anchors_round_trip(tmp_path):
    path = tmp_path / "anchors.csv"
    path.write_text(ANCHORS)
    rows = evaluation.read_summaries(path)
    assert rows[0] == Summary(
        "Set", "base_max", 20, {"EN": 7.41234, "SCD": 0.25, "PSNR": 26.0}, {"SCD": 11}
    )
    assert rows[1].values == {"EN": 7.0, "PSNR": 25.0}
    evaluation.write_summaries(tmp_path / "copy.csv", rows, ("EN", "SCD", "PSNR"))
    assert (tmp_path / "copy.csv").read_text() == ANCHORS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,EN\nx,1\n", "first columns must be dataset,method,n"),
        ("", "first columns"),
        ("dataset,method,n,EN\nS,x,20,seven\n", "line 2"),
        ("dataset,method,n,EN\nS,x,20,7\nS\n", "line 3"),
    ],
)
def test_files_that_are_no_anchors(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        evaluation.read_summaries(path)
    with pytest.raises(InputError, match="cannot be read"):
        evaluation.read_summaries(tmp_path / "absent.csv")


def test_summary_of_a_table_speaks_the_anchors_language():
    table = Table(("PSNR_peakF",), {"x": {"PSNR_peakF": 30.0}, "y": {"PSNR_peakF": math.inf}})
    row = Summary.of("Set", "ours", table)
    assert (row.n, row.values, row.invalid) == (2, {"PSNR": 30.0}, {"PSNR": 1})


def test_terminal_table_marks_the_best():
    rows = {"[a]": {"EN": 7.0, "MSE": 1.0}, "b": {"EN": 8.0, "MSE": 2.0}, "c": {"EN": 6.0}}
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="standard")
    ranks = {"[a]": 1.5, "b": 1.5, "c": 3.0}
    console.print(evaluation.rich_table(rows, ("EN", "MSE"), ranks=ranks))
    text = out.getvalue()
    assert "EN ↑" in text
    assert "MSE ↓" in text
    assert "[a]" in text
    assert "\x1b[1m8.0000" in text  # bold: the best
    assert "\x1b[1m1.0000" in text
    assert "\x1b[4m7.0000" in text  # underlined: the second


def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "lytro.py"
    spec = importlib.util.spec_from_file_location("lytro", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lytro_benchmark_on_two_small_pairs(tmp_path, capsys):
    lytro = benchmark()
    pairs = pictures(2, (161, 162, 3))
    for pair in pairs:
        files.write_image(tmp_path / "near" / f"{pair.name}.png", pair.a)
        files.write_image(tmp_path / "far" / f"{pair.name}.png", pair.b)
    # Our own figures as anchors, one of them spoilt, and one method of somebody else's.
    data = ["--data", str(tmp_path)]
    assert lytro.main([*data, "--csv", str(tmp_path / "anchors.csv")]) == 0
    rows = evaluation.read_summaries(tmp_path / "anchors.csv")
    assert [row.method for row in rows[:2]] == ["base_mean", "base_mean+jpeg75"]
    rows[0].values["VIF"] += 0.5
    rows.append(Summary("Set", "theirs", 2, dict(rows[0].values)))
    evaluation.write_summaries(tmp_path / "anchors.csv", rows, lytro.COLUMNS)

    outputs = [
        *("--anchors", str(tmp_path / "anchors.csv"), "--markdown", str(tmp_path / "page.md")),
        *("--pictures", str(tmp_path / "out"), "--per-image", str(tmp_path / "scores")),
    ]
    args = lytro._arguments([*data, *outputs])
    capsys.readouterr()
    console = Console(width=150)
    assert lytro.run(args, {"ours": baselines.maximum}, console) == 0
    text = capsys.readouterr().out
    assert "theirs †" in text
    assert "base_mean: 16 of 17 columns equal" in text
    assert "largest difference 0.50000 (VIF" in text
    assert "base_max: 17 of 17 columns equal" in text
    assert "ours+jpeg75: Qabf" in text
    assert "of 11" in text  # 8 baselines, theirs, ours twice
    page = (tmp_path / "page.md").read_text()
    assert page.count("| **ours") == 2
    assert str(tmp_path) not in page
    fused = files.read_image(tmp_path / "out" / "ours" / "p1.png")
    assert np.array_equal(fused, np.maximum(pairs[1].a, pairs[1].b))
    assert (tmp_path / "scores" / "ours.csv").read_text().splitlines()[-1].startswith("mean,")


def test_lytro_benchmark_reports_failures(tmp_path, capsys):
    lytro = benchmark()
    for pair in pictures(2, (161, 161)):
        files.write_image(tmp_path / "near" / f"{pair.name}.png", pair.a)
        files.write_image(tmp_path / "far" / f"{pair.name}.png", pair.b)
    (tmp_path / "far" / "p0.png").write_bytes(b"torn")
    assert lytro.main(["--data", str(tmp_path)]) == 1
    assert "p0.png" in capsys.readouterr().err
    (tmp_path / "far" / "p0.png").unlink()
    assert lytro.main(["--data", str(tmp_path)]) == 2
    assert "p0 has no partner" in capsys.readouterr().err
