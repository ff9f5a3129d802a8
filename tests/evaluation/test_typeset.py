"""The table of means for papers and pages."""

import math

from mgdn_jax.evaluation import typeset
from mgdn_jax.evaluation.standing import Row, rank_rows

MEANS = {
    "our_net": {"EN": 7.5, "MSE": 12.0},
    "50% [a|b]": {"EN": 7.25, "MSE": math.inf},
    "base_mean": {"EN": 6.0, "MSE": 10.0},
}


def rows():
    kinds = dict.fromkeys(MEANS, "measured") | {"base_mean": "baseline"}
    table = [Row(n, v, 20, kinds[n], comparable=v) for n, v in MEANS.items()]
    return rank_rows([*table, Row("theirs", {"EN": 9.0}, 25, "elsewhere")], ("EN", "MSE"))


def test_latex():
    assert typeset.latex(rows(), ["means over 20 pairs\n\\end{document}"]) == (
        "% means over 20 pairs \\end{document}\n"
        "\\begin{tabular}{lrrrr}\n"
        "\\toprule\n"
        "method & images & EN $\\uparrow$ & MSE $\\downarrow$ & mean rank $\\downarrow$ \\\\\n"
        "\\midrule\n"
        "our\\_net & 20 & \\textbf{7.5000} & \\underline{12.0000} & \\textbf{1.50} \\\\\n"
        "50\\% [a|b] & 20 & \\underline{7.2500} & $\\infty$ & 2.50 \\\\\n"
        "\\midrule\n"
        "base\\_mean & 20 & 6.0000 & \\textbf{10.0000} & \\underline{2.00} \\\\\n"
        "\\midrule\n"
        "theirs $^{\\dagger}$ & 25 & 9.0000 & -- & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_markdown():
    assert typeset.markdown(rows(), ["mean rank over EN MSE", "a\nb"]) == (
        "| method | images | EN ↑ | MSE ↓ | mean rank ↓ |\n"
        "|---|---:|---:|---:|---:|\n"
        "| our_net | 20 | **7.5000** | <u>12.0000</u> | **1.50** |\n"
        "| 50% \\[a\\|b\\] | 20 | <u>7.2500</u> | ∞ | 2.50 |\n"
        "| base_mean | 20 | 6.0000 | **10.0000** | <u>2.00</u> |\n"
        "| theirs † | 25 | 9.0000 | – | – |\n"
        "\n"
        "- mean rank over EN MSE\n"
        "- a b\n"
    )


def test_signs_that_latex_reads():
    table = rank_rows([Row("a\\b~^#{}$&", {"EN": 1.0}, 1)], ("EN",))
    name = typeset.latex(table).splitlines()[4].split(" & ")[0]
    assert name == ("a\\textbackslash{}b\\textasciitilde{}\\textasciicircum{}\\#\\{\\}\\$\\&")
