"""report: what a run folder becomes, number by number and picture by picture; progress lines."""

import csv
import json

import numpy as np
import pytest

SLOPES = np.round(np.concatenate([np.arange(0.01, 0.36, 0.02), np.arange(0.37, 2.02, 0.04)]), 2)
KNOTS = [0.01, 0.03, 0.05, 0.11, 0.23, 0.31, 2.01]
ACCURACY = [0.70, 0.88, 0.926, 0.957, 0.968, 0.968, 0.95]


def rising_and_falling(slopes, peak, left=1.0, right=1.0):
    """Return scores in standard deviations with a maximum near `peak`."""
    x = np.log(slopes / peak)
    return 1.7 - np.where(x < 0, 3.5 * left * np.abs(x) ** 2.2, 0.65 * right * np.abs(x) ** 1.8)


def write_run(folder, *, seeds=5, members=8, steps=60, slopes=SLOPES, diverged=(), seed=0):
    """Write a run folder like one of the experiment's, with noise."""
    rng = np.random.default_rng(seed)
    true = np.interp(slopes, KNOTS, ACCURACY) + rng.normal(0, 0.0008, len(slopes))
    inside = slopes >= 0.37
    z = (true - true[inside].mean()) / true[inside].std()
    peaks = []
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            "seed slope true true_standard_error split dish dish_low dish_high dish_untrained "
            "dish_untrained_low dish_untrained_high slope_mlp gaussian_process".split()
        )
        for run in range(seeds):
            train = set(rng.choice(slopes[inside], min(30, inside.sum()), replace=False))
            noise = lambda size: rng.normal(0, size, len(slopes))  # noqa: E731
            dish = rising_and_falling(slopes, 0.30 * np.exp(rng.normal(0, 0.12)), 1 + noise(0.05))
            dish += rng.normal(0, 0.1)
            untrained = -1.5 + 2.2 * np.tanh(slopes / rng.uniform(0.3, 0.9)) + noise(0.1)
            chosen = np.isin(slopes, list(train))
            mlp, gp = (np.poly1d(np.polyfit(slopes[chosen], z[chosen], k))(slopes) for k in (2, 3))
            gp *= 1 - np.exp(-slopes / 0.2)
            dish[list(diverged)] = -np.inf
            peaks.append(float(slopes[np.argmax(dish)]))
            for k, c in enumerate(slopes):
                split = "train" if c in train else "test"
                row = [run, c, true[k], 0.0005 + 0.02 * np.exp(-c / 0.02), split]
                row += [dish[k], dish[k] - 0.3, dish[k] + 0.3]
                row += [untrained[k], untrained[k] - 0.5, untrained[k] + 0.5, mlp[k], gp[k]]
                writer.writerow(row)
    write_summary(folder, slopes[inside], float(slopes[np.argmax(true)]), peaks)
    with (folder / "metrics.jsonl").open("w") as file:
        for run in range(seeds):
            rates = rng.uniform(0.05, 0.12, members)
            for step in range(steps):
                loss = 1.6 * np.exp(-rates * step) + 0.02 * rng.lognormal(0, 0.3, members)
                file.write(json.dumps({"seed": run, "step": step, "outer_loss": loss.tolist()}))
                file.write("\n")
    start = rng.normal(size=(10, 10))
    np.savez(
        folder / "synthetic_data.npz",
        train_inputs_start=start,
        train_inputs=start + rng.normal(0, 0.8, start.shape),
        valid_inputs=start + rng.normal(0, 0.8, start.shape),
        train_labels=rng.integers(0, 2, (10, 10)),
        valid_labels=rng.integers(0, 2, (10, 10)),
    )
    return folder


def spread(values):
    q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75, "values": list(values)}


def write_summary(folder, train_slopes, true_peak, peaks):
    methods = {
        name: {"predicted_peak_slope": spread(peaks), "kendall_tau": spread([0.8, 0.85, 0.9])}
        for name in ("dish", "dish_untrained", "slope_mlp", "gaussian_process")
    }
    interval = [float(train_slopes.min()), float(train_slopes.max())]
    summary = {"train_interval": interval, "true_peak_slope": true_peak, **methods}
    (folder / "summary.json").write_text(json.dumps(summary))
