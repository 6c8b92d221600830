"""`make test-wheel`: the wheel in empty environments, one for each extra that users install.

Every environment lies outside the clone and holds the wheel and one extra, nothing else. What a
user would run first is run there: README's example, one for each face, a page, a cluster.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = """
import json, subprocess, sys
from spd_jax.studies.run_folder import open_folder

with open_folder("run", {"study": "league"}) as folder:
    folder.write_json("summary.json", {"problem": "sigmoid_slope", "motifs": 60})
subprocess.run([sys.executable, "-m", "spd_jax.report", "run"], check=True)
assert "sigmoid_slope" in open("run/report.html").read()
"""


def examples():
    """Return what is run with each extra: programs, by name."""
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[0]
    page = (ROOT / "docs" / "adapters.md").read_text("utf-8")
    faces = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", page, re.S | re.M))
    tutorials = {x.stem: x.read_text("utf-8") for x in (ROOT / "docs" / "tutorials").glob("*.py")}
    first = {"README": readme}
    return {
        "": first
        | {"flax": faces["flax"]}
        | {n: tutorials[n] for n in ("own_space", "flax_motif")},
        "scikit-learn": first | {"face": faces["scikit-learn"], "page": tutorials["zero_to_forty"]},
        "optuna": first | {"face": faces["Optuna"]},
        "report": first | {"page": PAGE},
        "cluster": first | {"cluster": tutorials["cluster"]},
    }


def run(*command, **options):
    """Run a command and end with it if it fails."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:8]))} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main():
    """Build the wheel, and try it with every extra."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        venv.create(place / "tools", with_pip=True)
        tools = place / "tools" / "bin"
        run(tools / "pip", "install", "--quiet", "--disable-pip-version-check", "uv", "build")
        run(tools / "python", "-m", "build", "--wheel", "--outdir", place / "dist", ROOT)
        (wheel,) = (place / "dist").glob("*.whl")
        for extra, programs in examples().items():
            home = place / (extra or "plain")
            run(tools / "uv", "venv", "--quiet", "--python", sys.executable, home / "env")
            python = home / "env" / "bin" / "python"
            asked = f"{wheel}[{extra}]" if extra else str(wheel)
            run(tools / "uv", "pip", "install", "--quiet", "--python", python, asked, env=clean)
            for name, program in programs.items():
                work = home / name
                work.mkdir()
                run(python, "-c", program, cwd=work, env=clean)
                print(f"{wheel.name}[{extra}]: {name} runs", flush=True)
    print("the wheel works with every extra")


if __name__ == "__main__":
    main()
