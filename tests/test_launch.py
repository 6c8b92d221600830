"""launch: one flag for each setting, there and back, what is refused, and how a main ends."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tomllib
import typing

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

import experiments
from experiments import launch
from spd_jax.dish.config import CHOICES, RATES, DishConfig
from spd_jax.errors import UserError
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.settings import setting

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIELDS = [field.name for field in dataclasses.fields(DishConfig)]
# Another value than the default for each field; all of them together can be run.
OTHER: dict[str, typing.Any] = {
    "inner_steps": 7,
    "outer_steps": 0,
    "train_samples": 12,
    "valid_samples": 12,
    "ensemble_size": 2,
    "motif_batch": 5,
    "inner_batch_size": 4,
    "inner_loss": "softmax_cross_entropy",
    "inner_metric": "true_class_probability",
    "outer_loss": "absolute_pearson",
    "targets": "ranks",
    "gradient": "truncated",
    "truncation": 3,
    "shared_data": True,
    "learn_labels": True,
    "schedule": "cosine",
    "decay_steps": (3, 9, 27),
    "valid_every": 2,
    "remat": "nested",
    "inner_optimiser": "sgd",
    "shared_weights": False,
    "inner_learning_rate": (0.1, 0.3),
    "inner_l2": 0.0,
    "outer_learning_rate": 1e-30,
    "outer_l2": 0.125,
    "decay": 1.0,
    "init_scale": (1.5, 2.0),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """Settings of every kind."""

    seed: int = setting(0, "of everything", at_least=0)
    warm_start: int = setting(40, "cells to begin with", at_least=4)
    widths: tuple[int, ...] = setting((1, 2), "of networks", at_least=1, flag="width")
    rates: tuple[float, ...] = setting((0.01,), "to choose from", by_preset=True)
    names: tuple[str, ...] = setting((), "who takes part", choices=("ann", "bob"))
    share: float = setting(0.25, "held out", at_least=0, at_most=0.9, by_preset=True)
    low: float = setting(-1.5, "where it begins")
    order: str = setting("up", "which way", choices=("up", "down"))
    exact: bool = setting(True, "whether it is")
    table: str | None = setting(None, "where it is", free=True)
    limit: int | None = setting(None, "where to stop", at_least=1)
    dish_preset: str = setting("best", "settings of the dish", flag="preset")
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)


BEST = DishConfig(inner_steps=6, train_samples=3, valid_samples=3)
PRESETS: dict[str, dict[str, typing.Any]] = {
    "best": {"dish": BEST, "rates": (0.1, 0.2), "share": 0.5},
    "paper": {"dish": DishConfig()},
}
OWN = {
    "seed": (["--seed=7"], 7),
    "warm_start": (["--warm_start=4"], 4),
    "widths": (["--width=3,4,5"], (3, 4, 5)),
    "rates": (["--rates=1e-3"], (0.001,)),
    "names": (["--names=bob,ann"], ("bob", "ann")),
    "share": (["--share=0.125"], 0.125),
    "low": (["--low=-inf", "--low=2"], 2.0),
    "order": (["--order=down"], "down"),
    "exact": (["--noexact"], False),
    "table": (["--table=a b.csv"], "a b.csv"),
    "limit": (["--limit", "3"], 3),
    "dish_preset": (["--preset=paper", "--share=0.5", "--rates=0.1,0.2", *(  # the best one's
        ["--inner_steps=6", "--train_samples=3", "--valid_samples=3"]
    )], "paper"),
}  # fmt: skip


def parse(*argv, kind=Example, presets=PRESETS, preset="dish_preset"):
    """Return the settings that some words of a command line give."""
    values = flags.FlagValues()
    launch.define(kind, presets, values)
    values(["program", *argv])
    return launch.read(kind, presets, preset, values)


def dish_of(*argv, preset=None):
    """Return what the flags make of the dish of a preset."""

    @dataclasses.dataclass(frozen=True)
    class OfDish:
        preset: str = setting("own", "settings of the dish")
        dish: DishConfig = setting(DishConfig(), "", by_preset=True)

    own = DishConfig() if preset is None else preset
    return parse(*argv, kind=OfDish, presets={"own": {"dish": own}}, preset="preset").dish


def as_flag(name, value):
    """Return the command-line word that gives a field of the dish this value."""
    flag = launch.RENAMED.get(name, name)
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no{flag}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{flag}={text}"


# Flags of the settings


def test_every_field_has_one_flag():
    values = flags.FlagValues()
    launch.define(Example, PRESETS, values)
    own = {"seed", "warm_start", "width", "rates", "names", "share", "low", "order", "exact"}
    own |= {"table", "limit", "preset"}
    assert set(values) == own | {launch.RENAMED.get(name, name) for name in FIELDS}
    decided = {"rates", "share"} | set(values) - own
    assert {name: values[name].default for name in decided} == dict.fromkeys(decided)


def test_without_flags_the_presets_values_and_the_defaults_stay():
    best = parse()
    assert best == Example(rates=(0.1, 0.2), share=0.5, dish=BEST)
    paper = parse("--preset=paper")
    assert paper == Example(dish_preset="paper")
    assert [type(value) for value in dataclasses.astuple(best)] == [
        type(value) for value in dataclasses.astuple(Example())
    ]


def test_a_kind_without_presets_and_dish_has_its_defaults():
    @dataclasses.dataclass(frozen=True)
    class Plain:
        count: int = setting(3, "of them", at_least=1)
        share: float = setting(0.5, "held out", by_preset=True)

    assert parse(kind=Plain, presets={}, preset="") == Plain()
    assert parse("--count=5", kind=Plain, presets={}, preset="") == Plain(5)


@pytest.mark.parametrize("name", OWN)
def test_a_flag_changes_its_own_field_alone(name):
    words, value = OWN[name]
    settings = parse(*words)
    assert settings == dataclasses.replace(parse(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


def test_help_says_what_a_setting_means_and_the_presets_values():
    values = flags.FlagValues()
    launch.define(Example, PRESETS, values)
    for name, known in settings_lib.of(Example).items():
        if name != "dish":
            assert known.help in values[known.flag or name].help
    assert values["share"].help == "held out (best: 0.5)"
    assert values["rates"].help == "to choose from (best: (0.1, 0.2))"
    words = settings_lib.attribute_help(DishConfig)
    for name in FIELDS:
        text = values[launch.RENAMED.get(name, name)].help
        assert f"of the dish: {words[name]} (" in text
        best, paper = (
            settings_lib.to_json(getattr(PRESETS[preset]["dish"], name)) for preset in PRESETS
        )
        same = best == paper
        assert text.endswith(
            f" (all presets: {best})" if same else f" (best: {best}, paper: {paper})"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset=tiny"], "--preset=tiny is unknown: use one of best, paper"),
        (["--width=1,two"], "--width=1,two: give whole numbers, separated by commas"),
        (["--width=1,2.5"], "--width=1,2.5: give whole numbers"),
        (["--width=3,0"], "--width=0 must be at least 1"),
        (["--width=3,10000000"], "--width=10000000 must be at most 1000000"),
        (["--rates=0.1,"], "--rates=0.1,: give numbers, separated by commas"),
        (["--rates=nan"], "--rates=nan must be finite"),
        (["--names=ann,eve"], "--names='eve' is unknown: use one of ann, bob"),
        (["--low=nan"], "--low=nan must be finite"),
        (["--low=-inf"], "--low=-inf must be finite"),
        (["--share=nan"], "--share=nan must be finite"),
        (["--decay_steps=3,1000000000"], "--decay_steps=1000000000 must be at most 1000000"),
    ],
)
def test_values_that_are_not_allowed_are_refused_by_their_flags(words, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        parse(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "--seed=-1", "--seed=99999999999999999999", "--seed=2147483648", "--seed=1.5", "--seed=x",
        "--seed=" + "9" * 5000, "--warm_start=3", "--warm_start=1000000000", "--limit=0",
        "--share=0.91", "--share=half", "--order=left", "--exact=perhaps", "--schedule=steep",
        "--inner_steps=many", "--inner_steps=2.5", "--inner_steps=99999999999999999999",
        "--shared_data=perhaps", "--num_dishes=two",
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_or_size_are_refused_by_the_parser(word):
    with pytest.raises(flags.IllegalFlagValueError, match=word.split("=")[0].strip("-")):
        parse(word)


# Flags of the dish


def test_other_values_are_others_of_every_field():
    assert set(OTHER) == set(FIELDS)
    assert [name for name in FIELDS if getattr(DishConfig(), name) == OTHER[name]] == []


@pytest.mark.parametrize("preset", [DishConfig(), DishConfig(**OTHER)])
def test_without_flags_the_preset_stays(preset):
    assert dish_of(preset=preset) == preset


def test_all_flags_together_give_all_fields():
    config = dish_of(*(as_flag(name, value) for name, value in OTHER.items()))
    assert dataclasses.asdict(config) == OTHER


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_changes_its_own_field_alone_and_takes_it_back(name):
    # A member's rate needs two members, and so on: the other fields allow either value.
    preset = DishConfig(**OTHER | {"inner_learning_rate": 0.5, "init_scale": 0.5})
    value = {"valid_samples": 12, "train_samples": 12}.get(name, getattr(DishConfig(), name))
    if name == "truncation":
        value = 7
    if name == "ensemble_size":
        value = 9
    changed = dish_of(as_flag(name, value), preset=preset)
    assert changed == dataclasses.replace(preset, **{name: value})
    assert type(getattr(changed, name)) is type(value)
    back = dish_of(as_flag(name, getattr(preset, name)), preset=changed)
    assert back == preset


rates = st.floats(0, 1e6, allow_subnormal=False)
values_of = {
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    **{name: st.one_of(rates, st.tuples(rates, rates, rates)) for name in RATES},
    **{name: st.integers(2, 10**6) for name in ("inner_steps", "outer_steps", "motif_batch")},
    "decay_steps": st.lists(st.integers(0, 1000), max_size=4).map(tuple),
    "learn_labels": st.booleans(),
    "shared_data": st.booleans(),
    "ensemble_size": st.just(3),
    "truncation": st.just(1),
}


@given(st.fixed_dictionaries({}, optional=values_of))
def test_any_settings_come_back_from_their_flags(chosen):
    chosen = {"ensemble_size": 3, "truncation": 1} | chosen
    config = dish_of(*(as_flag(name, value) for name, value in chosen.items()))
    assert config == dataclasses.replace(DishConfig(), **chosen)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--outer_l2=0.5"], 0.5),
        (["--outer_l2", "5e-1"], 0.5),
        (["--outer_l2=0.5,0.25", "--num_dishes=2"], (0.5, 0.25)),
        (["--outer_l2= 0.5 , 0.25 ", "--num_dishes=2"], (0.5, 0.25)),
    ],
)
def test_a_rate_is_one_number_or_one_for_each_dish(words, value):
    assert dish_of(*words).outer_l2 == value


@pytest.mark.parametrize(("text", "steps"), [("7", (7,)), ("7,9", (7, 9)), ("", ())])
def test_decay_steps_are_always_a_tuple(text, steps):
    assert dish_of(f"--decay_steps={text}").decay_steps == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outer_l2=abc"], "--outer_l2=abc: give numbers, separated by commas"),
        (["--outer_l2=0.1,"], "--outer_l2=0.1,: give numbers"),
        (["--decay_steps=2.5"], "--decay_steps=2.5: give whole numbers"),
        (["--outer_l2="], "outer_l2 has shape"),
        (["--outer_l2=1,2,3", "--num_dishes=2"], r"outer_l2 has shape \(3,\).* 2 ensemble members"),
        (["--decay=-0.5"], "--decay=-0.5 must be finite and not negative"),
        (["--decay=nan"], "--decay=nan must be finite"),
        (["--init_scale=inf"], "--init_scale=inf must be finite"),
        (["--num_dishes=0"], "--num_dishes=0 must be at least 1"),
        (["--outer_steps=-1"], "--outer_steps=-1 must be at least 0"),
        (
            ["--outer_gradient=truncated"],
            "--truncation=0 must lie between 1 and --inner_steps=250 when "
            "--outer_gradient=truncated",
        ),
        (
            ["--inner_batch_size=11"],
            r"--inner_batch_size=11 must lie between 0 \(all samples\) and --train_samples=10",
        ),
        (
            ["--shared_data", "--valid_samples=3"],
            "shared_data needs --valid_samples=3 equal to --train_samples=10",
        ),
    ],
)
def test_settings_that_cannot_be_run_are_refused(words, message):
    with pytest.raises(UserError, match=f"^{message}"):
        dish_of(*words)


# Mains

SCRIPT = """
import dataclasses, json, os, signal, sys, time, warnings
import jax
from experiments import launch
from spd_jax.errors import UserError
from spd_jax.studies import machine
from spd_jax.studies.settings import setting

# One process per ending, all forked from this one, which has imported what takes long.
warnings.filterwarnings("ignore", "os.fork")
for end, place, flags in json.load(sys.stdin):
    child = os.fork()
    if not child:
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([end, status]), flush=True)
else:
    sys.exit()
sys.argv[1:] = flags
for number, name in ((1, "output"), (2, "errors")):
    os.dup2(os.open(f"{place}.{name}", os.O_WRONLY | os.O_CREAT), number)

@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = setting(0, "of everything", at_least=0)
    most: int = setting(9, "of them", flag="limit")

launch.define(Settings)

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)

def main():
    settings = launch.read(Settings)
    if end == "well":
        sharding = machine.motif_sharding()
        shards = [] if sharding is None else [
            (str(shard.device), shard.data.shape)
            for shard in jax.device_put(jax.numpy.zeros((6, 2)), sharding).addressable_shards
        ]
        print(jax.device_count(), len({device for device, _ in shards}),
              {shape for _, shape in shards})
    if end == "mistake":
        raise UserError("runs/1 holds a run with seed=0, not 3, and most=4: give most")
    if end == "defect":
        raise ValueError("ours")
    if end == "full disk":
        import resource
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with open(os.environ["FULL"], "w") as stream:
                stream.write("x" * 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if end == "defect of a file":
        open("/no/such/file")
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if end == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if end == "interrupt in a callback":
        Swallows()
    if end.startswith(("interrupt", "terminate")):
        for _ in range(600):
            time.sleep(0.1)

launch.run_main(main)
"""
ENDINGS = {
    "well": ["--cpu_devices=3"],
    "mistake": [],
    "defect": [],
    "defect of a file": [],
    "full disk": [],
    "interrupt": [],
    "interrupt in a callback": [],
    "terminate": [],
    "stray word": ["runs/here"],
    "many devices": ["--cpu_devices=100000"],
    "a large seed": ["--seed=99999999999999999999"],
    "unknown flag": ["--nonsense=1"],
    "help": ["--help"],
}
INTERRUPTED = "interrupted: the same command goes on from here\n"


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Return how each of `ENDINGS` ended."""
    folder = tmp_path_factory.mktemp("endings")
    asked = [
        (end, str(folder / end), ["--cpu_devices=1", *flags]) for end, flags in ENDINGS.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(asked), cwd=ROOT, text=True, timeout=600,
        env=os.environ | {"FULL": str(folder / "full")}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return {
        end: subprocess.CompletedProcess(
            end,
            status,
            (folder / f"{end}.output").read_text(),
            (folder / f"{end}.errors").read_text(),
        )
        for end, status in map(json.loads, done.stdout.splitlines())
    }


def test_motifs_are_spread_over_as_many_host_devices_as_asked_for(endings):
    assert endings["well"].stdout == "3 3 {(2, 2)}\n"


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("well", 0, ""),
        (
            "mistake", 1,
            "error: runs/1 holds a run with --seed=0, not 3, and --limit=4: give --limit\n",
        ),
        ("interrupt", 130, INTERRUPTED),
        ("interrupt in a callback", 130, INTERRUPTED),
        ("terminate", 143, INTERRUPTED),
        ("stray word", 1, "error: 'runs/here' is no flag: write --name=value\n"),
    ],
)  # fmt: skip
def test_a_main_ends_with_a_sentence_and_a_status(ending, status, error, endings):
    assert (endings[ending].returncode, endings[ending].stderr) == (status, error)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("many devices", r"flag --cpu_devices=100000: .*range \[1, 1024\]"),
        ("a large seed", r"flag --seed=9{20}: .*range \[0, 2147483647\]"),
        ("unknown flag", "Unknown command line flag 'nonsense'"),
        ("full disk", "File too large: free some space and run the same command again"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_no_traceback(ending, words, endings):
    assert endings[ending].returncode == 1
    assert endings[ending].stdout == ""
    assert re.fullmatch(f"error: .*{words}.*\n", endings[ending].stderr)


@pytest.mark.parametrize("ending", ["defect", "defect of a file"])
def test_a_defect_keeps_its_traceback(ending, endings):
    assert endings[ending].returncode == 1
    assert "Traceback" in endings[ending].stderr
    assert re.search(r"\n(ValueError: ours|FileNotFoundError: .*)\n$", endings[ending].stderr)


def test_help_shows_all_flags(endings):
    shown = set(re.findall(r"--(?:\[no\])?(\w+):", endings["help"].stdout))
    assert {"workdir", "cpu_devices", "seed", "limit"} <= shown
    assert endings["help"].stderr == ""


IMPORTS = """
import time
import sys
sys.argv[0] = "-m"
import experiments
sys.argv[0] = "experiments/example.py"
print("imported", flush=True)
try:
    for _ in range(600):
        time.sleep(0.1)  # in place of imports, some of which swallow exceptions
except BaseException:
    print("swallowed", flush=True)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_during_imports_ends_with_a_sentence(number, status):
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "imported\n"
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (status, "", INTERRUPTED)


def test_the_module_of_a_command_is_ready_for_interruptions(tmp_path):
    """Started with `-m`, as every experiment is, and interrupted as early as can be."""
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").write_text((ROOT / "experiments" / "__init__.py").read_text())
    (package / "slow.py").write_text("print('begun', flush=True)\nimport time\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.slow"], cwd=tmp_path, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, INTERRUPTED)


@pytest.mark.parametrize("module", experiments.PACKAGES)
def test_a_package_that_is_missing_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(SystemExit) as end:
        experiments.check_packages()
    name = experiments.PACKAGES[module]
    assert end.value.code == f"error: an experiment needs {name}: pip install '.[experiments]'"


@pytest.mark.parametrize(
    "name", [path.stem for path in (ROOT / "experiments").glob("[!_]*.py")] + ["benchmark"]
)
def test_an_experiment_without_packages_ends_with_a_sentence(name):
    done = subprocess.run(  # -S: without site-packages
        [sys.executable, "-S", "-E", "-m", f"experiments.{name}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    needed = ", ".join(experiments.PACKAGES.values())
    sentence = f"error: an experiment needs {needed}: pip install '.[experiments]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_the_packages_of_experiments_are_those_that_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = project["dependencies"] + project["optional-dependencies"]["experiments"]
    names = {re.split("[<>=]", requirement)[0] for requirement in stated}
    assert set(experiments.PACKAGES.values()) == names


def test_importing_experiments_changes_no_handler():
    words = "import signal, experiments; print(signal.getsignal(signal.SIGTERM).name)"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "SIG_DFL\n"


IGNORED = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import experiments
experiments.handle(lambda number, frame: print("handled", flush=True))
signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_that_the_shell_ignores_stays_ignored():
    done = subprocess.run(
        [sys.executable, "-c", IGNORED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "handled\n"


@pytest.mark.parametrize(("given", "folder"), [("download", None), ("data", "data")])
def test_the_folder_of_the_data(given, folder):
    assert launch.folder_of_data(given) == folder


def test_an_empty_folder_is_refused():
    with pytest.raises(UserError, match="--data_dir is empty: give the folder"):
        launch.folder_of_data("")
