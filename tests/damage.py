"""What can happen to a file, for property tests: each case is some bytes and what becomes of them.

`SPD_JAX_FUZZ=15` makes every such test fifteen times as long (`make fuzz`).
"""

import json
import os
import pathlib
import sqlite3
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = float(os.environ.get("SPD_JAX_FUZZ", "1"))
SQL = (
    "CREATE TABLE evaluations (a, b)",
    "CREATE TABLE evaluations (a); INSERT INTO evaluations VALUES (zeroblob(9))",
    "CREATE TABLE others (a); CREATE VIEW evaluations AS SELECT * FROM others",
    "CREATE VIEW evaluations AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT x FROM n",
    "PRAGMA user_version = 2",
    "PRAGMA application_id = 1397769300",
    "PRAGMA application_id = 1397769300; PRAGMA user_version = 2",
    "PRAGMA application_id = 1397769300; PRAGMA user_version = 3",
    "PRAGMA application_id = 1397769300; PRAGMA user_version = 9; CREATE TABLE a (b)",
    "PRAGMA journal_mode = WAL; CREATE TABLE a (b)",
)
# Changes to a ledger by somebody who knows SQL but not what a ledger is.
CHANGES = (
    "UPDATE evaluations SET score = 'high'",
    "UPDATE evaluations SET score = x'00ff'",
    "UPDATE evaluations SET score = NULL",
    "UPDATE evaluations SET score = 1e308",
    "UPDATE evaluations SET score = score + 0.01 WHERE purchase = 2",
    "UPDATE evaluations SET checksum = 1 WHERE purchase = 3",
    "UPDATE OR IGNORE evaluations SET seed = 'one'",
    "UPDATE evaluations SET budget = -1",
    "UPDATE evaluations SET curve = x'00'",
    "UPDATE evaluations SET curve = zeroblob(8000)",
    "UPDATE evaluations SET info = '[1]'",
    "UPDATE evaluations SET status = 'maybe'",
    "UPDATE evaluations SET cell = 'no cell' WHERE purchase = 1",
    "DELETE FROM evaluations",
    "DROP TABLE evaluations",
    "ALTER TABLE evaluations ADD COLUMN more",
    "CREATE TABLE more (a)",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
    "PRAGMA user_version = 1",
)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9),
    st.sampled_from([10**400, 2**63, 1e308, -1, 0, "", "nan", "1e999"]),
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=9,
)


def cases(count: int) -> settings:
    """Return settings of so many cases, without a deadline for each: some refit a surrogate."""
    return settings(
        max_examples=max(int(count * TIMES), 1), derandomize=TIMES == 1,
        database=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, name: str, content: bytes) -> bytes | None:
    """Return what a file holds after some mishap; None: it is gone."""
    kinds = ["flip", "cut", "insert", "replace", "gone", "bytes", "json"]
    if name.endswith((".json", ".jsonl")):
        kinds += ["node"] * 4
    if name.endswith(".sqlite"):
        kinds += ["sqlite"] * 3 + ["change"] * 3
    kind = draw(st.sampled_from(kinds))
    if kind == "gone":
        return None
    if kind == "bytes":
        return draw(st.binary(max_size=99))
    if kind == "json":
        return json.dumps(draw(trees)).encode()
    if kind == "node":
        return _node(draw, content)
    if kind == "sqlite":
        return _database(b"", draw(st.sampled_from(SQL)))
    if kind == "change":
        return _database(content, draw(st.sampled_from(CHANGES)))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if kind == "replace":
        new = draw(st.binary(min_size=1, max_size=40))
        return content[:place] + new + content[place + len(new) :]
    flipped = bytearray(content or b"\0")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(flipped) - 1))
        flipped[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


def _node(draw: st.DrawFn, content: bytes) -> bytes:
    """Put something else in one place of a JSON text, at any depth."""
    lines = content.decode().splitlines() if content.count(b'{"seed"') > 1 else [content.decode()]
    at = draw(st.integers(0, len(lines) - 1))
    root = [json.loads(lines[at])]
    inside, key = root, 0
    while isinstance(inside[key], dict | list) and inside[key] and draw(st.booleans()):
        inside = inside[key]
        key = draw(
            st.sampled_from(sorted(inside))
            if isinstance(inside, dict)
            else st.integers(0, len(inside) - 1)
        )
    if draw(st.booleans()) or inside is root:
        inside[key] = draw(trees)
    else:
        del inside[key]
    lines[at] = json.dumps(root[0]) if root else ""
    return "\n".join(lines).encode()


def _database(content: bytes, script: str) -> bytes:
    """Return the bytes of a SQLite file after a script."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.sqlite"
        path.write_bytes(content)
        database = sqlite3.connect(path, isolation_level=None)
        database.executescript(script)
        database.execute("PRAGMA journal_mode = DELETE")
        database.close()
        return path.read_bytes()
