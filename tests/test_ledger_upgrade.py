"""python -m spd_jax.ledger upgrade: tables of the older formats, rewritten to the bit."""

import math
import os

import pytest

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation, EvaluationKey, table
from spd_jax.ledger import __main__ as ledger_cli
from spd_jax.ledger import upgrade as upgrade_module
from spd_jax.ledger.upgrade import upgrade

CELLS = """\
# command: python -m x
# settings: a=1, b=(2, 3)
space,cell,task,seed,epochs,valid_nll,test_nll,seconds,status,curve,error
nao,0 1,f00d,0,3,2.1257128715515137,1.5,2.5,ok,3.0 -0.0 2.1257128715515137,
nao,0 1,f00d,1,3,,,0.5,failed,,"Trace\\nError: no"
"""
SLOPES = """\
# how it was made: by hand
slope,seed,epochs,accuracy,loss,final_accuracy
0.01,0,50,0.881590,0.449108,0.867800
0.0100,1,50,0.948200,0.192519,0.947900
"""


@pytest.fixture
def old(tmp_path):
    def old(text):
        (tmp_path / "old.csv").write_text(text)
        return tmp_path / "old.csv"

    return old


def test_cells_become_evaluations(old, tmp_path, capsys):
    ledger_cli.main(["upgrade", str(old(CELLS)), str(tmp_path / "new.csv")])
    assert capsys.readouterr().out.startswith("2 evaluations written to ")
    unit = "negative nats per token"
    loss = -2.1257128715515137
    good, bad = table.read(tmp_path / "new.csv")
    key = EvaluationKey("nao", "0 1", "f00d", 0, 3)
    assert good == (key, Evaluation("ok", loss, -1.5, (-3.0, 0.0, loss), 2.5, unit=unit))
    assert math.copysign(1, good[1].curve[1]) == 1
    error = "Trace\nError: no"
    assert bad == (key._replace(seed=1), Evaluation("failed", seconds=0.5, error=error, unit=unit))
    assert files.read_csv(tmp_path / "new.csv")[0] == {
        "command": "python -m x",
        "settings": "a=1, b=(2, 3)",
    }


def test_slopes_become_evaluations(old, tmp_path):
    new = tmp_path / "new.csv"
    ledger_cli.main(["upgrade", str(old(SLOPES)), str(new), "--task=beef"])
    info = {"loss": 0.449108, "final_accuracy": 0.8678}
    key, evaluation = table.read(new)[0]
    assert key == ("sigmoid_slope", "0.01", "beef", 0, 50, "")
    assert evaluation == Evaluation("ok", 0.88159, unit="accuracy", info=info)
    assert [key.cell for key, _ in table.read(new)] == ["0.01", "0.01"]
    assert files.read_csv(new)[0] == {"how it was made": "by hand"}


def test_what_is_given_holds_for_every_row(old, tmp_path):
    given = {"space": "s", "task": "t", "unit": "u", "budget": "7"}
    assert (
        upgrade(old("slope,accuracy\n0.1,0.5\n0.123456789123,1\n"), tmp_path / "n.csv", given) == 2
    )
    assert table.read(tmp_path / "n.csv") == [
        (EvaluationKey("s", "0.1", "t", 0, 7), Evaluation("ok", 0.5, unit="u")),
        (EvaluationKey("s", "0.12345679", "t", 0, 7), Evaluation("ok", 1.0, unit="u")),
    ]
    upgrade(old(CELLS), tmp_path / "n.csv", given)
    assert {key[:1] + key[2:3] + key[4:5] for key, _ in table.read(tmp_path / "n.csv")} == {
        ("s", "t", 7)
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell,score\na,1\n", "no table of an older format: .*cell, valid_nll or slope, accuracy"),
        ("", "no table of an older format"),
        (CELLS.replace(",1.5,", ",one,"), r"old\.csv, line 4: could not convert .*'one'"),
        (SLOPES.replace("0.881590", "high"), r"old\.csv, line 3: could not convert .*'high'"),
        (SLOPES.replace(",1,50", ",0,50"), r"old\.csv, line 4: it is there twice"),
        (CELLS.replace(",0,3,", ",0,2,"), r"old\.csv, line 4: the curve has 3 values"),
    ],
)
def test_a_wrong_table_is_one_sentence_and_nothing_is_written(text, message, old, tmp_path):
    with pytest.raises(UserError, match=message):
        upgrade(old(text), tmp_path / "new.csv", {})
    assert os.listdir(tmp_path) == ["old.csv"]


@pytest.mark.parametrize("text", [CELLS, SLOPES], ids=["cells", "slopes"])
def test_a_table_that_does_not_come_back_to_the_bit_takes_no_place(
    text, old, tmp_path, monkeypatch
):
    (tmp_path / "new.csv").write_text("what was there")

    def lossy(number):
        return "" if math.isnan(number) else f"{number:.3f}"

    monkeypatch.setattr(upgrade_module.table, "_text", lossy)
    with pytest.raises(RuntimeError, match=r"new\.csv would not equal .*old\.csv"):
        upgrade(old(text), tmp_path / "new.csv", {})
    assert (tmp_path / "new.csv").read_text() == "what was there"
    assert sorted(os.listdir(tmp_path)) == ["new.csv", "old.csv"]
