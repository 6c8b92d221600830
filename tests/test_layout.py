"""The rooms of the package: imports run downward only; and the face: names, documents, version."""

import ast
import graphlib
import importlib
import importlib.metadata
import inspect
import json
import pathlib
import subprocess
import sys
import tomllib
import typing

import pytest

import spd_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spd_jax"
FACE = "spd_jax"
# From the top of the house to its ground: a room may import those below it and itself.
ROOMS = (
    "adapters", "report", "studies", "dishes", "problems", "forward_search", "search",
    "surrogates", "trainers", "ground_truth", "ledger", "data", "spaces", "dish", "archs",
    "motif", "units", "metrics", "files", "checks", "errors", "axes", "version",
)  # fmt: skip
# The rooms that know particular spaces; all others ask a problem, or the space's protocols.
KNOW_SPACES = {"problems", "trainers", "spaces"}
CORE = {"chex", "jax", "numpy", "optax"}
EXTRAS = {"matplotlib", "sklearn", "rich", "distributed", "dask", "pooch", "optuna", "jinja2"}


class Import(typing.NamedTuple):
    """One import: the module that it names, its line, and whether it runs at import."""

    module: str
    line: int
    at_import: bool


def module_of(path):
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in PATHS.items()}
MODULES = [module for module in PATHS if module != FACE]
each_module = pytest.mark.parametrize("module", MODULES)


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(module, nodes=None, at_import=True):
    """Yield the imports of a module, those inside functions too, not those for type checkers."""
    for node in TREES[module].body if nodes is None else nodes:
        if is_type_checking(node):
            yield from imports_of(module, node.orelse, at_import)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:  # relative
                parts = module.split(".")
                depth = node.level - (PATHS[module].name == "__init__.py")
                source = ".".join([*parts[: len(parts) - depth], *filter(None, [source])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield Import(full if full in PATHS else source, node.lineno, at_import)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            below = ast.iter_child_nodes(node)
            yield from imports_of(module, below, at_import and not inside)


IMPORTS = {module: list(imports_of(module)) for module in PATHS}


def room_of(module):
    return module.split(".")[1]


def own_imports(module):
    """Return the imports of the package's own modules."""
    return [found for found in IMPORTS[module] if found.module.split(".")[0] == FACE]


def foreign_imports(module):
    """Return the imports of other packages than this one and the standard library."""
    own = {FACE, *sys.stdlib_module_names}
    return [found for found in IMPORTS[module] if found.module.split(".")[0] not in own]


def test_imports_are_found_where_they_stand():
    tree = """
import a, b.c
if TYPE_CHECKING:
    import hidden
else:
    import seen
def function():
    from d import e
    class Inner:
        import f
class Outer:
    import g
    def method(self):
        import h
try:
    import i
except ImportError:
    import j
from spd_jax import files, made_up
from spd_jax.dish import core
"""
    TREES["example"] = ast.parse(tree)
    PATHS["example"] = pathlib.Path("example.py")
    try:
        found = {(found.module, found.at_import) for found in imports_of("example")}
    finally:
        del TREES["example"], PATHS["example"]
    at_import = {"a", "b.c", "seen", "g", "i", "j", "spd_jax.files", FACE, "spd_jax.dish.core"}
    assert found == {(name, True) for name in at_import} | {(name, False) for name in "dfh"}


# Rooms


def test_every_module_lies_in_a_room():
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@each_module
def test_imports_run_downward_only(module):
    upward = [
        f"{PATHS[module].relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in own_imports(module)
        if found.module == FACE
        or room_of(found.module) not in ROOMS
        or ROOMS.index(room_of(found.module)) < ROOMS.index(room_of(module))
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_circle():
    graph = {
        module: {found.module for found in own_imports(module)} - {module, FACE}
        for module in MODULES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(MODULES) <= set(order)


@each_module
def test_nothing_packaged_imports_the_experiments_or_tests(module):
    roots = {found.module.split(".")[0] for found in IMPORTS[module]}
    assert not roots & {"experiments", "tests", "conftest"}


def test_the_core_imports_little():
    modules = [module for module in MODULES if room_of(module) == "dish"]
    assert {found.module.split(".")[0] for m in modules for found in foreign_imports(m)} <= CORE
    below = set(ROOMS[ROOMS.index("dish") :])
    while modules:  # and what it imports of the package imports no more
        module = modules.pop()
        assert room_of(module) in below
        assert {found.module.split(".")[0] for found in foreign_imports(module)} <= CORE
        modules += [found.module for found in own_imports(module)]


def draws(module):
    """Return whether a module holds the drawings of a space, and so is imported when drawn."""
    return room_of(module) == "spaces" and module.endswith("drawing")


@each_module
def test_what_only_experiments_need_is_imported_when_it_is_used(module):
    allowed = {"matplotlib"} if draws(module) else set()
    allowed |= {"matplotlib", "rich"} if room_of(module) == "report" else set()
    allowed |= {"optuna", "sklearn"} if room_of(module) == "adapters" else set()
    early = [
        f"{PATHS[module].relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in IMPORTS[module]
        if found.at_import
        and (
            found.module.split(".")[0] in EXTRAS - allowed
            or (found.module in MODULES and draws(found.module) and room_of(module) != "report")
        )
    ]
    assert early == []


# Spaces


SPACE_CLASSES = {
    node.name
    for module in MODULES
    if room_of(module) == "spaces"
    for node in ast.walk(TREES[module])
    if isinstance(node, ast.ClassDef)
}


def asks_for_a_space(node):
    """Return whether a call asks which space it has, or what that has, without a protocol."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
        return False
    if node.func.id in ("getattr", "hasattr"):
        return ast.unparse(node.args[0]).split(".")[-1].endswith("space")
    if node.func.id in ("isinstance", "issubclass", "cast"):
        kinds = {part.split(".")[-1] for part in map(ast.unparse, ast.walk(node)) if part}
        return bool(kinds & SPACE_CLASSES)
    return False


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("getattr(space, 'features')", True),
        ("hasattr(problem.space, 'features', None)", True),
        ("isinstance(space, RnnCellSpace)", True),
        ("isinstance(self.space, (int, rnn_cell.RnnCellSpace | str))", True),
        ("isinstance(space, motif.Features)", False),
        ("getattr(config, name)", False),
    ],
)
def test_questions_about_a_space_are_found(line, asks, monkeypatch):
    monkeypatch.setitem(globals(), "SPACE_CLASSES", {"RnnCellSpace"})
    assert any(map(asks_for_a_space, ast.walk(ast.parse(line)))) == asks


@each_module
def test_nobody_asks_which_space_it_has(module):
    if room_of(module) in ("spaces", "trainers"):
        return
    found = [ast.unparse(node) for node in ast.walk(TREES[module]) if asks_for_a_space(node)]
    assert found == []


@each_module
def test_only_problems_and_trainers_know_particular_spaces(module):
    if room_of(module) in KNOW_SPACES:
        return
    particular = [
        f"{PATHS[module].relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in own_imports(module)
        if found.module.startswith("spd_jax.spaces.")
        or (
            found.module.startswith("spd_jax.problems.")
            and found.module != "spd_jax.problems.problem"
        )
    ]
    assert particular == []


# The face


def test_every_name_of_the_face_is_there_and_documented():
    assert len(set(spd_jax.__all__)) == len(spd_jax.__all__)
    assert dir(spd_jax) == sorted(spd_jax.__all__)
    for name in spd_jax.__all__:
        found = getattr(spd_jax, name)
        if name != "__version__":
            assert inspect.getdoc(found), name
            assert not inspect.getdoc(found).startswith(f"{name}("), name  # a dataclass's own
    assert 20 <= len(spd_jax.__all__) <= 40


def test_type_checkers_see_the_same_names_in_the_same_rooms():
    """The face names every import twice: for type checkers, and for when it is used."""
    (block,) = filter(is_type_checking, TREES[FACE].body)
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        home = importlib.import_module(node.module)
        for alias in node.names:
            name = alias.asname or alias.name
            assert name in spd_jax.__all__
            assert getattr(spd_jax, name) is getattr(home, alias.name)
    declared = {alias.asname or alias.name for node in block.body for alias in node.names}
    assert declared == set(spd_jax.__all__) - {"__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        spd_jax.Nonsense  # noqa: B018
    assert not hasattr(spd_jax, "_nonsense")


def imported_by(statement):
    """Return the modules that a statement imports, in a process of its own."""
    words = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_face_imports_nothing_else():
    imported = imported_by("import spd_jax as spd; spd.__version__, dir(spd)")
    assert {name for name in imported if name.split(".")[0] == FACE} == {FACE, f"{FACE}.version"}
    assert not {name.split(".")[0] for name in imported} & {"jax", "flax", "numpy", *EXTRAS}


def test_no_name_of_the_face_imports_what_only_experiments_need():
    imported = imported_by("from spd_jax import *")
    early = {name.split(".")[0] for name in imported} & EXTRAS
    assert early <= {"rich"}  # flax imports it, if it is there


def test_a_dish_is_had_without_searches_and_networks_of_others():
    imported = imported_by("import spd_jax as spd; spd.dish.fit, spd.DishConfig")
    rooms = {room_of(name) for name in imported if name.startswith(f"{FACE}.")}
    assert rooms <= set(ROOMS[ROOMS.index("dish") :])
    assert "flax" not in imported


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "spd_jax.version.VERSION"
    }
    try:
        installed = importlib.metadata.distribution("spd_jax")
    except importlib.metadata.PackageNotFoundError:
        return
    if pathlib.Path(str(installed.locate_file(""))).resolve() == ROOT:
        assert installed.version == spd_jax.__version__
