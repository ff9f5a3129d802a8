import csv
import io
import math

import pytest
from rich.console import Console

from mgdn_jax.errors import InputError
from mgdn_jax.evaluation import scores, summaries, terminal
from mgdn_jax.evaluation.scores import Table, mean_ranks
from mgdn_jax.evaluation.standing import Row, Standing, rank_methods, rank_rows
from mgdn_jax.evaluation.summaries import Summary


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
    table = Table(("EN", "MSE"), {"p0": {"EN": 1 / 3, "MSE": 2.0}, "p1": {"EN": 1.0, "MSE": 0.1}})
    scores.write_tables(tmp_path / "out.csv", {"ours": table})
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
    rows = summaries.read_summaries(path)
    assert rows[0] == Summary(
        "Set", "base_max", 20, {"EN": 7.41234, "SCD": 0.25, "PSNR": 26.0}, {"SCD": 11}
    )
    assert rows[1].values == {"EN": 7.0, "PSNR": 25.0}
    summaries.write_summaries(tmp_path / "copy.csv", rows, ("EN", "SCD", "PSNR"))
    assert (tmp_path / "copy.csv").read_text() == ANCHORS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,EN\nx,1\n", "first columns must be dataset,method,n"),
        ("\n", "first columns"),
        ("dataset,method,n,EN\nS,x,20,seven\n", "line 2"),
        ("dataset,method,n,EN\nS,x,20,7\nS\n", "line 3"),
    ],
)
def test_files_that_are_no_anchors(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        summaries.read_summaries(path)
    with pytest.raises(InputError, match="does not exist"):
        summaries.read_summaries(tmp_path / "absent.csv")


def test_summary_of_a_table_speaks_the_anchors_language():
    table = Table(("PSNR_peakF",), {"x": {"PSNR_peakF": 30.0}, "y": {"PSNR_peakF": math.inf}})
    row = Summary.of("Set", "ours", table)
    assert (row.n, row.values, row.invalid) == (2, {"PSNR": 30.0}, {"PSNR": 1})


def printed(table, **options):
    """The table as a terminal shows it, colours included."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="standard")
    console.print(terminal.rich_table(table, **options))
    return out.getvalue()


def test_terminal_table_marks_the_best():
    rows = {"[a]": {"EN": 7.0, "MSE": 1.0}, "b": {"EN": 8.0, "MSE": 2.0}, "c": {"EN": 6.0}}
    table = rank_rows([Row(n, v, 3, comparable=v) for n, v in rows.items()], ("EN", "MSE"))
    assert [row.rank for row in table.rows] == [1.5, 1.5, None]
    text = printed(table)
    assert "EN ↑" in text
    assert "MSE ↓" in text
    assert "[a]" in text
    assert "\x1b[1m8.0000" in text  # bold: the best
    assert "\x1b[1m1.0000" in text
    assert "\x1b[4m7.0000" in text  # underlined: the second


def test_a_table_comes_back_from_its_file(tmp_path):
    one = Table(("EN", "CC"), {"x": {"EN": 1 / 3, "CC": math.nan}, "mean": {"EN": 2.0, "CC": -1.0}})
    scores.write_tables(tmp_path / "one.csv", {"ours": one})
    back = scores.read_tables(tmp_path / "one.csv")
    assert list(back) == ["one"]  # one method has no column for its name: the file's stands for it
    assert back["one"].columns == ("EN", "CC")
    assert list(back["one"].rows) == ["x", "mean"]  # a picture called mean is no mean
    assert back["one"].rows["x"]["EN"] == 1 / 3
    assert math.isnan(back["one"].rows["x"]["CC"])


def test_several_tables_share_a_file(tmp_path):
    tables = {
        name: Table(("EN",), {"x": {"EN": value}, "y": {"EN": 4.0}})
        for name, value in (("a, b", 1.0), ("c", 2.0))
    }
    scores.write_tables(tmp_path / "two.csv", tables)
    lines = (tmp_path / "two.csv").read_text().splitlines()
    assert lines[0] == "method,image,EN"
    assert lines[3] == '"a, b",mean,2.5'
    assert scores.read_tables(tmp_path / "two.csv") == tables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,method,n,EN\nS,x,20,7\n", "no table of scores an image"),
        ("image,colour\nx,red\n", "no table of scores an image"),
        ("image,EN\nx,seven\n", "line 2"),
        ("image,EN\nx\n", "line 2"),
        ("image,EN\nx,1\nx,2\nmean,1.5\n", "twice"),
        ("image,EN\nmean,1.5\n", "holds no image's scores"),
        ("image;EN\nx;1\n", "has semicolons"),
        ("image,EN\nx,1,5\n", "decimals need points"),
        ("image,EN,EN\nx,1,2\n", "two columns of one title"),
        ("image,SSIM\nx,1\n", "call it SSIM_dr255 or SSIM_dr2"),
        ("\n", "no table of scores"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        scores.read_tables(tmp_path / "bad.csv")


def test_metrics_can_go_down_the_side():
    rows = (
        Row("[a]", {"EN": 7.0, "MSE": 1.0}, 3, rank=1.0),
        Row("b", {"EN": 8.0}, 3),
    )
    table = Standing(("EN", "MSE"), rows, ("EN", "MSE"))
    out = io.StringIO()
    Console(file=out, width=80).print(terminal.rich_table(table, metrics_down=True))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["┃", "metric", "┃", "[a]", "┃", "b", "┃"] in lines
    assert ["│", "MSE", "↓", "│", "1.0000", "│", "-", "│"] in lines
    assert ["│", "mean", "rank", "↓", "│", "1.00", "│", "-", "│"] in lines


def test_common_ground_of_several_methods():
    nan, inf = math.nan, math.inf
    tables = {
        "a": Table(("EN", "CC"), {"x": {"EN": 1, "CC": 0.5}, "y": {"EN": 3, "CC": 0.1}}),
        "b": Table(
            ("EN", "CC"),
            {k: {"EN": e, "CC": c} for k, e, c in (("x", 2, nan), ("y", inf, 0.3), ("z", 9, 9))},
        ),
        "nothing": Table(("EN", "CC"), {}, {"x": "lost"}),
    }
    shared = scores.common(tables)
    assert shared.images == ("x", "y")
    assert list(shared.tables) == ["a", "b"]
    assert shared.tables["b"].mean() == {"EN": 2, "CC": 0.3}  # what is shown: finite values
    assert shared.means["a"] == {"EN": 2, "CC": 0.1}  # what is ranked: y alone for CC
    assert shared.means["b"] == {"EN": inf, "CC": 0.3}
    assert [row.eligible("CC") is not None for row in rank_methods(tables).rows] == [
        True,
        False,
        False,
    ]
    strangers = {"a": tables["a"], "c": Table(("EN",), {"q": {"EN": 1.0}})}
    apart = scores.common(strangers)
    assert (apart.images, apart.means) == ((), {})
    assert [row.eligible("EN") for row in rank_methods(strangers).rows] == [None, None]
    assert apart.tables["c"].rows


def test_marks_go_by_what_is_seen_and_only_to_rows_on_equal_terms():
    means = {"a": 1.00004, "b": 1.00001, "c": 9.0, "d": 0.5}
    rows = [
        Row(name, {"EN": value}, 4 if name == "c" else 3, comparable={"EN": value})
        for name, value in means.items()
        if name != "c"
    ]
    rows.insert(2, Row("c", {"EN": 9.0}, 4))
    text = printed(rank_rows(rows, ("EN",)))
    assert text.count("\x1b[1m1.0000") == 2
    assert "\x1b[1m9" not in text
    assert "\x1b[4m0.5000" in text
    assert "images" in text


def test_means_are_told_from_scores_an_image(tmp_path):
    path = tmp_path / "means.csv"
    path.write_text("dataset,method,n,EN,PSNR\nS,x,20,7,30\n")
    with pytest.raises(InputError, match=r"holds means .* make that with mgdn eval .* --csv FILE"):
        scores.read_tables(path)
