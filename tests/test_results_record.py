"""What the tables of docs/ say is what the shipped records of the runs behind them say."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest

from spd_jax.search.record import read_history

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "experiments" / "results"
TABLES = ROOT / "spd_jax" / "data" / "tables"
RESULTS = (ROOT / "docs" / "results.md").read_text("utf-8")


def rows_after(text, line):
    """Return the cells of the rows of the first table after a line, its header left out."""
    _, found, rest = text.partition(line)
    assert found, f"no page has the line {line!r}"
    lines = rest.splitlines()
    start = next(i for i, own in enumerate(lines) if own.startswith("|--"))
    rows = []
    for own in lines[start + 1 :]:
        if not own.startswith("|"):
            break
        rows.append([cell.strip(" *`") for cell in own.strip("|").split("|")])
    return rows


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text("utf-8"))


def lines_of(name):
    """Return the rows of a CSV record, and the lines of its comments."""
    text = (RECORDS / f"{name}.csv").read_text("utf-8").splitlines()
    rows = csv.DictReader(line for line in text if not line.startswith("#"))
    return list(rows), [line for line in text if line.startswith("#")]


def test_every_record_says_how_it_was_made():
    for path in RECORDS.glob("*.json"):
        own = json.loads(path.read_text("utf-8"))
        assert own["command"].startswith("python -m experiments."), path
        assert re.fullmatch(r"[0-9a-f]{12}", own["commit"]), path
    for path in RECORDS.glob("*.csv"):
        _, comments = lines_of(path.stem)
        assert any("python -m experiments." in line for line in comments), path
        assert any(re.search(r"commit:? [0-9a-f]{7,12}\b", line) for line in comments), path


# Figure 3


SEARCHES = pytest.mark.parametrize(
    ("title", "name"),
    [
        ("### Figure 3: the search", "rnn_cell_search_ten"),
        ("#### Seven methods, five runs", "rnn_cell_search"),
    ],
)


@SEARCHES
def test_the_tables_of_figure_3_are_their_records(title, name):
    methods = record(name)["summary"]["methods"]
    names = {own["label"]: name for name, own in methods.items()}
    names["partial evaluation (1 epoch of 4)"] = "partial"
    rows = rows_after(RESULTS, title)
    assert len(rows) == len(methods)
    for label, runs, *figures, std in rows:
        own = methods[names[label]]
        at_equal = own["at_equal_ground_truths"]["test"]
        expected = [own["by_ground_truths"][cost]["test"] for cost in ("40", "60", "80", "100")]
        assert figures == [f"{value:.4f}" for value in expected]
        assert (int(runs), std) == (own["runs"], f"{at_equal['std']:.4f}")


@pytest.mark.parametrize(
    ("path", "name", "column"),
    [
        (TABLES / "rnn_cell_search_ptb_tiny.csv", "rnn_cell_search", 0),
        (RECORDS / "rnn_cell_search_ten_history.csv", "rnn_cell_search_ten", 1),
    ],
)
def test_the_records_of_figure_3_are_those_of_the_shipped_searches(path, name, column):
    records, _ = read_history(path)
    methods = record(name)["summary"]["methods"]
    for method, own in methods.items():
        costs = [runs[-1].cost for (one, _), runs in records.items() if one == method]
        assert own["spent"] == pytest.approx(sum(costs) / len(costs))
    told = {}
    for label, *seconds in rows_after(RESULTS, "Equal ground truths are not equal seconds"):
        told[label] = seconds[column]
    assert {own["label"]: f"{own['seconds']:.0f}" for own in methods.values()} == {
        label: seconds for label, seconds in told.items() if seconds
    }


def fresh_bits(name):
    """Return bits per character of fresh trainings, a mean for each run, by method."""
    rows, _ = lines_of(f"{name}_fresh")
    by_run: dict = {}
    for row in rows:
        by_run.setdefault((row["method"], row["run"]), []).append(float(row["test_score"]))
    bits: dict = {}
    for (method, _), scores in by_run.items():
        assert len(scores) == 3
        bits.setdefault(method, []).append(-np.mean(scores) / np.log(2))
    return {method: np.array(own) for method, own in bits.items()}


@SEARCHES
def test_the_tables_of_fresh_seeds_are_their_records(title, name):
    del title
    bits = fresh_bits(name)
    methods = record(name)["summary"]["methods"]
    names = {own["label"]: name for name, own in methods.items()}
    names["partial evaluation (1 epoch of 4)"] = "partial"
    lines = {
        "rnn_cell_search_ten": "#### With seeds that chose nothing",
        "rnn_cell_search": "which trains the best cell of each recorded run anew",
    }
    shown = rows_after(RESULTS, lines[name])
    assert len(shown) == len(bits)
    for label, mean, std, gain in shown:
        own = bits[names[label]]
        assert (mean, std) == (f"{own.mean():.4f}", f"{own.std(ddof=1):.4f}")
        if gain:
            paired = own - bits[f"dish_{names[label]}"]
            runs = len(paired)
            error = paired.std(ddof=1) / np.sqrt(runs)
            better = f"{np.sum(paired > 0)} of {runs}"
            assert gain == f"{paired.mean():.4f} ± {error:.4f}, {better}"


# Slopes of MNIST, from another table


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mnist_blind", "![figure 1, from another table]"),
        ("fashion_mnist_blind", "The same for Fashion-MNIST: settings chosen on MNIST and digits"),
    ],
)
def test_the_blind_tables_are_their_records(name, line):
    methods = record(name)["summary"]["methods"]
    rows = rows_after(RESULTS, line)
    assert len(rows) == len(methods)
    for (_, *figures), own in zip(rows, methods.values(), strict=True):
        assert len(own["kendall_tau"]["values"]) == 20
        expected = [
            f"{own[name]['median']:.3f} [{own[name]['q25']:.2f}, {own[name]['q75']:.2f}]"
            for name in ("kendall_tau", "kendall_tau_left", "peak_error")
        ]
        assert figures == expected


def test_what_was_looked_at_between_the_choices_is_in_the_records():
    shown = rows_after(RESULTS, "**What was looked at on MNIST between the choices**")
    for name, place in (("mnist_digits", 1), ("mnist_blind_80", 3), ("mnist_blind", 4)):
        own = record(name)["summary"]["methods"]["dish"]
        assert len(own["kendall_tau"]["values"]) == 20
        assert shown[place][3:] == [
            f"{own[figure]['median']:.3f} [{own[figure]['q25']:.2f}, {own[figure]['q75']:.2f}]"
            for figure in ("kendall_tau", "kendall_tau_left", "peak_error")
        ]


@pytest.mark.parametrize(
    ("section", "label", "name", "method"),
    [
        ("### MNIST (not", "dish, preset `best", "mnist_best", "dish"),
        ("### MNIST (not", "dish, preset `a1", "mnist_a1", "dish"),
        ("### MNIST (not", "dish, preset `paper", "mnist_paper", "dish"),
        ("### MNIST (not", "dish, preset `paper`, untrained", "mnist_paper", "dish_untrained"),
        ("### MNIST (not", "MLP on the slope, the control", "mnist_best", "slope_mlp"),
        ("### MNIST (not", "Gaussian process", "mnist_best", "gaussian_process"),
        ("### Fashion-MNIST (blind)", "dish, preset `best", "fashion_mnist_best", "dish"),
        ("### Digits (looked", "dish, preset `best", "digits_best", "dish"),
        ("### Digits (looked", "MLP on the slope", "digits_best", "slope_mlp"),
        ("### Digits (looked", "Gaussian process", "digits_best", "gaussian_process"),
        ("### Fashion-MNIST (blind)", "MLP on the slope", "fashion_mnist_best", "slope_mlp"),
        ("### Fashion-MNIST (blind)", "Gaussian process", "fashion_mnist_best", "gaussian_process"),
    ],
)
def test_the_tables_of_slopes_are_their_records(section, label, name, method):
    rows = {words: own for words, *own in rows_after(RESULTS, section)}
    own = record(name)["summary"]["methods"][method]
    assert len(own["kendall_tau"]["values"]) == 20
    assert rows[label] == [
        f"{own[figure]['median']:.3f} [{own[figure]['q25']:.2f}, {own[figure]['q75']:.2f}]"
        for figure in ("peak_error", "kendall_tau", "kendall_tau_left", "kendall_tau_test")
    ]


def test_what_is_said_of_the_choice_within_tables_is_in_its_log():
    taus: dict = {}
    for row in lines_of("mnist_within_tuning")[0]:
        if int(row["outer_step"]) > 0:
            place = row["candidate"], int(row["outer_step"])
            taus.setdefault(place, []).append(float(row["held_out_tau"]))
    finalists = {place: np.mean(own) for place, own in taus.items() if len(own) == 8}
    best = sorted(finalists.items(), key=lambda item: -item[1])[:2]
    shown = rows_after(RESULTS, "**The choice that asks within each table**")
    runs = record("mnist_within")["summary"]
    for (label, held_out, *figures), ((candidate, step), tau), own in zip(
        shown, best, runs.values(), strict=True
    ):
        values = dict(part.split("=") for part in candidate.split("+"))
        assert f"width {values['hidden_size']}, " in label
        assert f"inner rate {float(values['inner_learning_rate']):.3f}" in label
        assert f"{step} outer steps at {float(values['outer_learning_rate']):.3f}" in label
        assert held_out == f"{tau:.3f}"
        dish = own["methods"]["dish"]
        assert f"({len(dish['kendall_tau']['values'])} seeds)" in label
        assert figures == [
            f"{dish[name]['median']:.3f} [{dish[name]['q25']:.2f}, {dish[name]['q75']:.2f}]"
            for name in ("kendall_tau", "kendall_tau_left", "peak_error")
        ]


# Recurrent cells: the league, and choosing the dish


def test_the_league_of_recurrent_cells_is_its_record():
    taus: dict = {}
    for row in lines_of("rnn_cell_league")[0]:
        taus.setdefault((row["surrogate"], row["known"]), []).append(float(row["kendall_tau"]))
    assert all(len(own) == 10 for own in taus.values())
    names = {
        "dish** (2 dishes, 6 outer steps)": "dish", "NAO's predictor": "nao",
        "mean of dish and Gaussian process on counts": "averaged",
        "trained dish beside counts, forest": "stacked",
        "untrained dish beside counts, forest": "stacked_untrained",
        "random forest on the encoding": "random_forest",
        "Gaussian process on the encoding": "gaussian_process",
        "random forest on counts (ours)": "random_forest_structure",
        "MLP on counts (ours)": "mlp_structure",
        "Gaussian process on counts (ours)": "gaussian_process_structure",
    }  # fmt: skip
    rows = rows_after(RESULTS, "### The league: who ranks cells that nobody trained")
    assert {label for label, *_ in rows} == {*names, "dish (4 dishes, 8 outer steps)"}
    for label, *shown in rows:
        if label in names:
            own = [taus[names[label], known] for known in ("5", "10", "20", "40", "80")]
            assert shown == [f"{np.mean(x):.2f} ± {np.std(x, ddof=1):.2f}" for x in own]
    free = {name: f"{np.mean(own):.2f}" for (name, known), own in taus.items() if known == "0"}
    assert (
        f"untrained dish {free['dish_untrained']}, synflow {free['synflow']}, hidden covariance "
        f"{free['hidden_covariance']}, Jacobian covariance {free['jacobian_covariance']}, GraSP "
        f"{free['grasp']}, SNIP {free['snip']}, gradient norm {free['grad_norm']}"
    ) in RESULTS
    dish = [np.mean(taus["dish", "5"]), np.mean(taus["dish_untrained", "0"])]
    words = f"Kendall's tau {dish[0]:.2f}, where it has {dish[1]:.2f} untrained"
    assert words in (ROOT / "README.md").read_text("utf-8")


def test_the_league_of_nao_s_cells_is_its_record():
    taus: dict = {}
    for row in lines_of("rnn_cell_nao_league")[0]:
        taus.setdefault((row["surrogate"], row["known"]), []).append(float(row["kendall_tau"]))
    names = {
        "Gaussian process on counts": "gaussian_process_structure", "dish, preset `best": "dish",
        "random forest on counts": "random_forest_structure", "untrained dish": "dish_untrained",
    }  # fmt: skip
    rows = rows_after(RESULTS, "### NAO's own space: the dish does not rank it")
    for label, *shown in rows:
        own = [taus.get((names[label], known)) for known in ("0", "20", "40")]
        assert shown == [f"{np.mean(x):.2f} ± {np.std(x, ddof=1):.2f}" if x else "" for x in own]


def test_what_is_said_of_the_tuning_log_is_in_it():
    rows, _ = lines_of("rnn_cell_tuning")
    found = {(row["candidate"], int(row["outer_step"])): row for row in rows}

    def figure(candidate, step, name="held_out_tau"):
        return round(float(found[candidate, step][name]), 2)

    scales = [figure(f"init_scale={scale}", 4) for scale in (0.1, 0.2, 0.4, 0.6)]
    assert f"tau at outer step 4 is {', '.join(map(str, scales))} for 0.1" in RESULTS
    smallest = {}
    for (candidate, step), row in found.items():
        loss = float(row["held_out_loss"])
        if loss < smallest.get(candidate, (9, 0))[0]:
            smallest[candidate] = loss, step
    steps = [smallest[f"init_scale={scale}"][1] for scale in (0.1, 0.2, 0.4, 0.6)]
    assert steps == [16, 12, 8, 8]
    assert "smallest at step 16 (the last) for 0.1, 12 for 0.2, 8 for 0.4 and 0.6" in RESULTS
    best = min(smallest, key=smallest.get)
    assert best == "init_scale=0.4+ensemble_size=4"
    assert f"The smallest held-out loss of all, {smallest[best][0]:.3f}, was four dishes" in RESULTS
    assert f"eight steps (tau {figure(best, 8)})" in RESULTS


def test_what_is_said_of_the_choice_on_two_splits_is_in_its_log():
    losses: dict = {}
    for row in lines_of("rnn_cell_tuning_splits")[0]:
        if row["outer_step"] == "8":
            losses.setdefault(row["candidate"], []).append(float(row["held_out_loss"]))
    assert all(len(own) == 4 for own in losses.values())
    mean = {name: f"{np.mean(own):.3f}" for name, own in losses.items()}
    assert (
        f"the smallest mean held-out loss, {mean['init_scale=0.4']} after eight steps; four dishes "
        f"have {mean['init_scale=0.4+ensemble_size=4']}, scale 0.2 has {mean['init_scale=0.2']}"
    ) in RESULTS


# Ablations of a dish


@pytest.mark.parametrize(
    ("title", "name", "seeds"),
    [
        ("## Slopes", "sigmoid_slope_ablation", 5),
        ("## Recurrent cells", "rnn_cell_ablation", 5),
        ("The papers' preset at full size (table 4", "rnn_cell_ablation_full", 4),
    ],
)
def test_the_tables_of_ablations_are_their_records(title, name, seeds):
    rows, _ = lines_of(name)
    by_name: dict = {}
    for row in rows:
        by_name.setdefault(row["variant"], []).append(row)
    page = (ROOT / "docs" / "ablation.md").read_text("utf-8")
    shown = rows_after(page, title)
    assert [name for name, *_ in shown] == list(by_name)
    for name, _, before, after, left, loss, converged in shown:
        values = {
            figure: np.array([float(row[figure]) for row in by_name[name]])
            for figure in ("tau_before", "tau_after", "tau_part_after", "outer_loss_last",
                           "converged_after")
        }  # fmt: skip
        assert all(len(own) == seeds for own in values.values())
        assert before == f"{values['tau_before'].mean():.2f}"
        for text, figure in ((after, "tau_after"), (left, "tau_part_after")):
            own = values[figure]
            assert text == f"{own.mean():.2f} ± {own.std(ddof=1):.2f}"
        assert loss == f"{values['outer_loss_last'].mean():.2f}"
        assert converged == f"{values['converged_after'].mean():.2f}"


# Image cells

IMAGE_CELLS = (ROOT / "docs" / "image_cells.md").read_text("utf-8")


def test_the_table_of_searches_of_image_cells_is_its_record():
    summary = record("nasbench201_search")["summary"]
    methods = {own["label"]: own for own in summary["methods"].values()}
    rows = rows_after(IMAGE_CELLS, "### NAS-Bench-201: Algorithm 1")
    assert {row[0] for row in rows} == set(methods)
    for label, at_100, at_60, at_80, taus in rows:
        own = methods[label]
        test = own["at_equal_ground_truths"]["test"]
        assert at_100 == f"{100 * test['mean']:.2f} ({100 * test['std']:.2f})"
        for told, cost in ((at_60, "60"), (at_80, "80")):
            assert told == f"{100 * own['by_ground_truths'][cost]['test']:.2f}"
        medians = [f"{tau['median']:.2f}" for tau in own["tau_by_iteration"].values()]
        assert taus == (", ".join(medians) or "-")
    assert f"{100 * summary['best_possible']:.2f} %" in IMAGE_CELLS


@pytest.mark.parametrize(
    ("title", "name", "knowns"),
    [
        ("### NAS-Bench-201: who ranks held-out cells", "nasbench201_league", (0, 10, 20, 40, 80)),
        ("### NAS-Bench-101", "nasbench101_league", (0, 40)),
    ],
)
def test_the_leagues_of_image_cells_are_their_records(title, name, knowns):
    found = {}
    for row in lines_of(name)[0]:
        place = row["surrogate"], int(row["known"])
        found.setdefault(place, []).append(float(row["kendall_tau"]))
    rows = rows_after(IMAGE_CELLS, title)
    assert {row[0] for row in rows} == {surrogate for surrogate, _ in found}
    for surrogate, *told, _ in rows:
        for cell, known in zip(told, knowns, strict=True):
            taus = found.get((surrogate, known))
            words = "" if taus is None else f"{np.mean(taus):.3f} ({np.std(taus, ddof=1):.3f})"
            assert cell == words, (surrogate, known)


def test_what_the_outer_loop_does_to_image_cells_is_its_record():
    taus = {}
    for row in lines_of("nasbench201_outer_loop")[0]:
        taus.setdefault(row["surrogate"], []).append(float(row["kendall_tau"]))
    before, after = np.array(taus["dish_untrained"]), np.array(taus["dish"])
    assert f"from {before.mean():.3f} to {after.mean():.3f}: by {(after - before).mean():.3f}" in (
        IMAGE_CELLS
    )
    assert len(before) == 10
    assert np.sum(after > before) == 6  # "in six of ten splits"


def test_the_ablation_of_image_cells_is_its_record():
    taus = {}
    for row in lines_of("nasbench201_ablation")[0]:
        pair = float(row["tau_before"]), float(row["tau_after"])
        taus.setdefault(row["variant"], []).append(pair)
    rows = rows_after(IMAGE_CELLS, "![ablation](pictures/image_ablation.png)")
    assert len(rows) == len(taus)
    for words, *figures in rows:
        before, after = np.array(taus[words.split("`")[0].split(":")[0]]).T
        expected = [f"{tau.mean():.2f} ({tau.std(ddof=1):.2f})" for tau in (before, after)]
        assert figures == [*expected, f"{np.sum(after > before)} of {len(before)}"]
    longer = lines_of("nasbench201_ablation_loss")[0]
    before, after = (np.array([float(row[name]) for row in longer]) for name in (
        "tau_before", "tau_after"))  # fmt: skip
    assert (after > before).all()
    words = (
        f"goes from {before.mean():.2f} to {after.mean():.2f}: up by {(after - before).mean():.2f}"
    )
    assert words in IMAGE_CELLS
    assert len(before) == 10


# Dishes that carry over


def test_the_table_of_kinds_is_its_record():
    page = (ROOT / "docs" / "carry_over.md").read_text("utf-8")
    names = {
        "learned dish": "dish", "untrained dish": "dish_untrained",
        "source's table": "source_table", "Gaussian process": "gaussian_process",
        "random forest": "random_forest", "GraSP": "grasp",
    }  # fmt: skip
    taus = {}
    for row in lines_of("carry_over_kinds")[0]:
        own = taus.setdefault((row["method"], row["group"]), [])
        own.append(float(row["kendall_tau"]))
    kinds = ("tanh", "relu", "softplus", "swish", "sin", "gaussian", "all")
    rows = rows_after(page, "### Kinds of activation from slopes")
    assert {label for label, *_ in rows} == set(names)
    for label, *figures, difference in rows:
        own = [np.mean(taus[names[label], kind]) for kind in kinds]
        assert figures == [f"{tau:.2f}" for tau in own]
        if label != "learned dish":
            gain = np.subtract([np.mean(taus["dish", kind]) for kind in kinds], own)[:-1]
            error = np.std(gain, ddof=1) / np.sqrt(len(gain))
            words = f"{gain.mean():+.2f} ± {error:.2f}, {np.sum(gain > 1e-9)} of {len(gain)}"
            assert difference == words


def medians_of(name, figure="kendall_tau"):
    """Return the median of a figure over seeds, by method, with its least and most."""
    found = {}
    for row in lines_of(name)[0]:
        found.setdefault(row["method"], []).append(float(row[figure]))
    return {
        method: (np.median(own), f"{min(own):.2f}, {max(own):.2f}") for method, own in found.items()
    }


def test_the_tables_of_other_sources_are_their_records():
    page = (ROOT / "docs" / "carry_over.md").read_text("utf-8")
    names = {
        "Gaussian process on the source": "gaussian_process", "learned dish": "dish",
        "random forest on the source": "random_forest", "untrained dish": "dish_untrained",
        "source's table": "source_table", "GraSP (the best proxy)": "grasp", "synflow": "synflow",
        "MLP of the paper, on the source": "slope_mlp", "hidden covariance": "hidden_covariance",
    }  # fmt: skip

    def check(figure, median, ends):
        value, *brackets = figure.strip("*").split(" [")
        assert float(value.strip("*")) == pytest.approx(median, abs=0.0051)
        if brackets:
            assert brackets[0].rstrip("]") == ends

    figures = ("kendall_tau", "kendall_tau_left", "peak_error")
    for title, name in (
        ("### MNIST from Fashion-MNIST", "carry_over_mnist"),
        ("### Fashion-MNIST from MNIST", "carry_over_fashion_mnist"),
        ("### CIFAR-10 from Fashion-MNIST", "carry_over_cifar10"),
    ):
        for label, *shown in rows_after(page, title):
            for words, figure in zip(shown, figures, strict=True):
                check(words, *medians_of(name, figure)[names[label]])
    for label, words in rows_after(page, "### ENAS-like cells from NAO's cells"):
        check(words, *medians_of("carry_over_nao_to_enas")[names[label]])
    for label, *shown in rows_after(page, "### Recurrent cells from another text"):
        records = ("carry_over_text_to_ptb", "carry_over_ptb_to_text")
        for words, name in zip(shown, records, strict=True):
            check(words, *medians_of(name)[names[label]])


# Accelerators


def test_the_tables_of_accelerators_are_their_records():
    page = (ROOT / "docs" / "accelerators.md").read_text("utf-8")
    growth, peers = record("benchmark_h100_growth")["growth"], record("benchmark_h100_peers")
    steps = {f"{own['motifs']} motifs": own["seconds"]["median"] for own in growth["fit"]}
    sixteen = next(own for own in growth["ensemble"] if own["dishes"] == 16)
    steps["16 dishes of 18 motifs"] = sixteen["seconds"]["median"]
    rows = rows_after(page, "### One outer step")
    assert dict(rows) == {name: f"{seconds:.4f}" for name, seconds in steps.items()}
    timed = {own["label"]: own for own in peers["peers"]["rows"].values()}
    rows = rows_after(page, "### Against other programs")
    assert len(rows) == len(timed)
    for label, seconds, ratio in rows:
        own = timed[label]
        assert float(seconds) == pytest.approx(own["seconds"]["median"], rel=0.005)
        assert float(ratio) == pytest.approx(own["ratio"], rel=0.04)


# Forward search


@pytest.mark.parametrize("name", ["forward_search_digits", "forward_search_ablation"])
def test_the_tables_of_grown_digits_are_their_records(name):
    found = record(name)["summary"]
    page = (ROOT / "docs" / "forward_search.md").read_text("utf-8").replace("\\|", "")
    rows = rows_after(page, f"Record: `experiments/results/{name}.json`")
    assert len(rows) == len(found["methods"])
    for (_, *shown), (name, own) in zip(rows, found["methods"].items(), strict=True):
        assert len(own["test_error"]["values"]) == 5
        figures = [
            f"{own['test_error']['mean']:.3f}",
            f"{own['test_error']['std']:.3f}",
            f"{own['error']['mean']:.3f}",
            f"{own['multiply_adds']['mean'] / 1e6:.3f}",
        ]
        paired = found["paired"].get(name)
        low, high = paired["interval"] if paired else (0, 0)
        figures.append(f"{paired['mean']:+.3f}, {low:+.3f} to {high:+.3f}" if paired else "")
        assert shown == figures


def test_the_table_of_selectors_is_its_records():
    found = record("forward_search_selectors_fresh")["summary"]["selection"]
    first = record("forward_search_selectors")["summary"]["selection"]["selectors"]
    page = (ROOT / "docs" / "forward_search.md").read_text("utf-8").replace("\\|", "")
    rows = rows_after(page, "## What selectors know")
    best_first = sorted(found["selectors"].items(), key=lambda item: -item[1]["mean"])
    assert len(rows) == len(best_first)
    for (_, *shown), (name, own) in zip(rows, best_first, strict=True):
        assert (len(own["values"]), len(first[name]["values"])) == (10, 5)
        low, high = own["interval"]
        least, most = first[name]["interval"]
        assert shown == [
            f"{own['mean']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{found['pooled'][name]['normal']:.2f}",
            f"{found['stability'][name]['mean']:.2f}",
            f"{first[name]['mean']:.2f}, {least:.2f} to {most:.2f}",
        ]


# README.md


def test_the_figures_of_the_readme_are_in_the_records():
    readme = (ROOT / "README.md").read_text("utf-8")
    bits, methods = fresh_bits("rnn_cell_search_ten"), record("rnn_cell_search_ten")["summary"]
    found = {
        name: own["at_equal_ground_truths"]["test"]["mean"]
        for name, own in methods["methods"].items()
    }
    gains = [found[name] - found[f"dish_{name}"] for name in ("ga", "nao")]
    assert f"by {gains[0]:.3f} to {gains[1]:.3f} bits; trained anew with fresh seeds" in readme
    nao, ga = ((bits[name] - bits[f"dish_{name}"]).mean() for name in ("nao", "ga"))
    assert f"better by {nao:.3f} (NAO) and {ga:.3f} (GA) only" in readme
    slopes = record("mnist_blind")["summary"]["methods"]
    before, after, read = (
        slopes[name]["kendall_tau"]["median"] for name in ("dish_untrained", "dish", "source_table")
    )
    assert f"upside down (tau {before:.2f}) into a good one with a peak ({after:.2f})" in readme
    assert f"ranks MNIST's slopes better ({read:.2f})" in readme
    taus: dict = {}
    for row in lines_of("nasbench201_league")[0]:
        if row["known"] == "0":
            taus.setdefault(row["surrogate"], []).append(float(row["kendall_tau"]))
    mean = {name: np.mean(own) for name, own in taus.items()}
    partial = mean.pop("partial_12")
    proxies = [tau for name, tau in mean.items() if not name.endswith("untrained")]
    assert (
        f"(tau {mean['dishes_untrained']:.2f}) than every zero-cost proxy measured on the same "
        f"networks ({max(proxies):.2f} at most), and better than twelve real epochs ({partial:.2f})"
    ) in readme
    search = record("nasbench201_search")["summary"]
    ended = search["methods"]["dish_ga"]["at_equal_ground_truths"]["test"]["mean"]
    points = 100 * (search["best_possible"] - ended)
    assert f"dish + GA comes within {points:.2f} points of the best cell" in readme
