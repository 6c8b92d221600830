"""The examples of docs/adapters.md are short, and run as they stand against the real libraries."""

import pathlib
import re

import numpy as np
import optuna
import pytest

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "adapters.md"
EXAMPLES = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE.read_text(), re.S | re.M))


@pytest.fixture(scope="module")
def names():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for title, code in EXAMPLES.items():
        found[title] = {}
        exec(compile(code, f"{PAGE.name}: {title}", "exec"), found[title])
    return found


def test_every_library_has_an_example_of_at_most_thirty_lines():
    assert list(EXAMPLES) == ["scikit-learn", "Optuna", "flax"]
    assert all(len(code.splitlines()) <= 30 for code in EXAMPLES.values())


def test_the_estimator_ranks_and_says_how_sure_it_is(names):
    own = names["scikit-learn"]
    assert own["search"].best_params_["config__outer_steps"] in (0, 10)
    assert np.all(own["std"] > 0)
    assert own["spd"].kendall_tau(own["predicted"], own["y"]) > 0


def test_the_study_finds_a_good_slope_and_prunes_some(names):
    study = names["Optuna"]["study"]
    assert len(study.trials) == 20
    assert study.best_value > 0.85
    pruned = study.get_trials(states=(optuna.trial.TrialState.PRUNED,))
    assert pruned


def test_the_module_is_ranked_by_its_choice(names):
    own = names["flax"]
    assert own["family"].output_shape == (2,)
    predicted = own["dish"].predict(own["state"], own["choices"])
    assert np.argmax(predicted) == np.argmax(own["scores"])
