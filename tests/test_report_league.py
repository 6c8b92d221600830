"""report.league: the tables, and what the picture draws."""

import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from spd_jax.errors import UserError
from spd_jax.report import league, style

TAUS = {  # surrogate -> known -> Kendall's tau of three splits
    "nao": {5: [0.1, 0.2, 0.3], 40: [0.5, 0.6, 0.7]},
    "dish": {40: [0.6, 0.65, 0.7], 5: [0.4, 0.4, 0.4]},
    "dish_untrained": {0: [0.5, 0.55, 0.6]},
    "my_proxy": {0: [-0.1, 0.0, 0.1]},
}


def rows(taus=TAUS):
    return [
        {
            "surrogate": name,
            "known": known,
            "split": split,
            "kendall_tau": tau,
            "spearman": None if tau is None else 1.2 * tau,
            "precision_at_10": 0.4,
            "regret": 0.01 * (1 + split),
            "fit_seconds": 12.0,
            "query_seconds": 0.05,
        }
        for name, own in taus.items()
        for known, values in own.items()
        for split, tau in enumerate(values)
    ]


def test_tables_list_the_best_first():
    text = league.tables(rows(), ceiling=0.8)
    blocks = text.split("\n\n")
    assert [block.split()[0] for block in blocks] == ["0", "5", "40"]
    lines = blocks[2].splitlines()
    assert lines[0] == (
        "40 ground truths: means over 3 splits, tau ± std; noise ceiling of tau 0.800"
    )
    assert " ".join(lines[1].split()) == "Kendall tau /ceil rho p@10 regret fit query"
    assert " ".join(lines[2].split()) == "dish 0.650±0.050 81% 0.78 0.40 0.020 12 s 50 ms"
    assert lines[3].split()[0] == "nao"
    assert "ceil" not in league.tables(rows())


def test_tables_of_all_known_surrogates_have_80_columns_at_most():
    text = league.tables(many(), ceiling=0.8)
    assert max(map(len, text.splitlines())) <= 80


def test_tables_say_where_a_figure_is_missing():
    text = league.tables(rows({"a": {5: [0.5, None]}, "b": {5: [-0.9, -0.8]}, "c": {5: [0.1]}}))
    lines = text.splitlines()
    assert "over 1 to 2 splits" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["c", "b", "a"]
    assert lines[4].split()[1:3] == ["none", "1/2"]
    assert lines[2].split()[1:3] == ["0.100", "0.12"]  # one split has no deviation


def test_the_picture_draws_means_spreads_and_the_ceiling():
    axes = league.picture(rows(), 0.8).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["dish"].get_ydata().tolist() == pytest.approx([0.4, 0.65])
    assert lines["NAO's predictor"].get_ydata().tolist() == pytest.approx([0.2, 0.6])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5", "40"]
    assert np.round(lines["dish"].get_xdata()).tolist() == [1, 2]
    apart = lines["dish"].get_xdata() - lines["NAO's predictor"].get_xdata()
    assert np.all(np.abs(apart) > 0.05)
    assert lines["noise ceiling"].get_linestyle() == "--"
    assert set(lines["noise ceiling"].get_ydata()) == {0.8}
    segments = [s.tolist() for c in axes.collections for s in c.get_segments()]
    x = lines["dish"].get_xdata()[1]
    (own,) = [segment for segment in segments if segment[0][0] == x]
    assert [y for _, y in own] == pytest.approx([0.6, 0.7])
    assert len(segments) == sum(map(len, TAUS.values()))


def test_what_learns_from_nothing_is_a_dotted_line_across():
    figure = league.picture(rows())
    axes = figure.axes[0]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == pytest.approx([0.55, 0.0])
    assert [line.get_xdata() for line in dotted] == [[0, 1]] * 2
    assert "Dotted: learns from no ground truth." in figure.texts[0].get_text()
    assert "over 3 splits" in figure.texts[0].get_text()
    learners = [row for row in rows() if row["known"]]
    assert "Dotted" not in league.picture(learners).texts[0].get_text()


def test_a_missing_tau_is_a_gap():
    taus = {"dish": {5: [0.1, 0.2], 10: [0.1, None], 20: [0.3, 0.4]}, "nao": {5: [None, 0.1]}}
    axes = league.picture(rows(taus)).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["dish"].get_ydata(), [0.15, np.nan, 0.35])
    words = [text.get_text() for text in axes.texts]
    assert words == ["dish  0.35", "NAO's predictor: no result"]


def many():
    rng = np.random.default_rng(0)
    known = (5, 10, 20, 40, 80)
    taus = {
        name: {k: rng.normal(0.5, 0.03, 4) for k in ([0] if "untrained" in name else known)}
        for name in [*league.LOOKS, "mine"]
    }
    return rows(taus)


def test_no_two_lines_look_alike():
    known = [*league.LOOKS.values()]
    assert len({(look.colour, look.marker) for look in known}) == len(known)
    assert len({look.colour for look in known}) == len(known)
    many_others = league.looks([f"other_{k}" for k in range(20)])
    shown = {(look.colour, look.marker, str(look.dash)) for look in many_others.values()}
    assert len(shown) == 20
    assert many_others["other_3"].label == "other 3"


def test_labels_do_not_overlap_and_stay_inside():
    figure = league.picture(many(), 0.52, "A space, a data set with a long name, preset tiny: tau")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in [*axes.texts, axes._left_title]]
    assert len(boxes) == len(league.LOOKS) + 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    colours = [to_rgba(text.get_color()) for text in axes.texts]
    assert to_rgba(league.LOOKS["dish"][1]) in colours


def test_the_picture_is_written(tmp_path):
    path = style.save(tmp_path / "league.png", league.picture(many(), 0.7))
    assert matplotlib.image.imread(path).std() > 0.05
    with pytest.raises(UserError, match="no rows"):
        league.picture([])
