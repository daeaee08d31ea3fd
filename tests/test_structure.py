"""The listing is the architecture: imports go down and never in a circle, the rooms of host/ stay small, packages hand names on."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sharp_plugins"

# A folder imports itself and what stands below it; folders on one level do not know each other.
LEVELS = [
    ["core", "files", "user_dir"],
    ["command_line"],
    ["networks", "text"],
    ["criterions", "models", "generation"],
    ["prompted", "cloze", "contrastive", "sharpness"],
    ["optim", "convert"],
    ["host", "lora"],
    ["runs"],
    ["candidates"],
    ["glue", "webnlg", "fewshot", "sts"],
]
# Of these everything that they import is listed.
ALONE = {"core": [], "files": [], "networks": ["core"]}
# `register` of user_dir.py imports what it puts into fairseq when it is called: all of it, from below.
JOINS_THE_PARTS = "user_dir"
HOST_LINES = 250


# ---------------------------------------------------------------------- the import graph


def name_of(path, root):
    """``host.flags`` for root/host/flags.py, ``host`` for root/host/__init__.py, ``""`` for root/__init__.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node, known, package):
    """Names of the package's own modules that an import statement is about."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        head, _, inside = name.partition(".")
        while head == package:
            if inside in known:
                yield inside
                break
            inside = inside.rpartition(".")[0]  # a name in a module


def for_type_checkers_alone(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node):
    """All nodes below *node*, those inside functions too, that Python may run."""
    for child in ast.iter_child_nodes(node):
        if not for_type_checkers_alone(child):
            yield child
            yield from statements(child)


def graph_of(root):
    """The modules below *root*, each with those that it imports."""
    trees = {name_of(path, root): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}
    graph = {}
    for name, tree in trees.items():
        nodes = tree.body if name == JOINS_THE_PARTS else statements(tree)
        graph[name] = {other for node in nodes for other in imported(node, trees, root.name)} - {name}
    return graph


def circle_in(graph):
    """Modules that import each other in a circle; none if there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def arrows_that_climb(graph):
    """Pairs of a module and one that it may not import. Of a folder that has no level every module is in one."""
    level = {folder: number for number, folders in enumerate(LEVELS) for folder in folders}
    found = []
    for name, others in graph.items():
        folder = name.partition(".")[0]
        if not folder:  # the package itself
            found += [(name, other) for other in others - {"user_dir"}]
            continue
        if folder not in level:
            found.append((name, "has no level in tests/test_structure.py"))
            continue
        for other in others:
            to = other.partition(".")[0]
            if not to or to == folder:
                continue
            allowed = ALONE.get(folder)
            if not (to in allowed if allowed is not None else level.get(to, 99) < level[folder]):
                found.append((name, other))
    return sorted(found)


def code_in_packages(root):
    """Functions and classes in ``__init__`` files; but for those by which the package itself hands names on lazily."""
    found = []
    for path in root.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        if path.parent == root:
            names -= {"__getattr__", "__dir__"}
        found += [(name_of(path, root), name) for name in sorted(names)]
    return found


def long_files(directory, lines):
    return [path.name for path in directory.glob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > lines]


# ---------------------------------------------------------------------- this package


def test_no_import_goes_in_a_circle():
    assert circle_in(graph_of(PACKAGE)) == []


def test_imports_go_down():
    assert arrows_that_climb(graph_of(PACKAGE)) == []


def test_packages_hand_names_on_and_hold_no_code():
    assert code_in_packages(PACKAGE) == []


def test_host_has_no_long_file():
    assert long_files(PACKAGE / "host", HOST_LINES) == []


# ---------------------------------------------------------------------- made-up ones: each check can fail


@pytest.fixture
def tree(tmp_path):
    """Writes a package with the given files, of which the paths have no ending."""

    def write(**files):
        root = tmp_path / "sharp_plugins"
        for name in ("__init__", "core/__init__", "optim/__init__", "host/__init__", *files):
            path = root / f"{name.replace('__of__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files.get(name, ""))
        return root

    return write


def test_a_tree_in_order(tree):
    root = tree(
        host__of__update="from sharp_plugins.optim import sam\nfrom sharp_plugins import register\nimport torch",
        optim__of__sam="from sharp_plugins.core.perturbation import Perturbation",
        core__of__perturbation="class Perturbation: pass",
        user_dir="def register():\n    from sharp_plugins.host.update import install",
    )
    graph = graph_of(root)
    assert graph["host.update"] == {"optim.sam", ""} and graph["optim.sam"] == {"core.perturbation"} and graph["user_dir"] == set()
    assert circle_in(graph) == arrows_that_climb(graph) == code_in_packages(root) == long_files(root / "host", 3) == []


def test_a_circle_is_found_inside_functions_too(tree):
    graph = graph_of(tree(core__of__a="def f():\n    import sharp_plugins.core.b", core__of__b="from sharp_plugins.core import a"))
    assert set(circle_in(graph)) == {"core.a", "core.b"}


@pytest.mark.parametrize(
    "name, line, to",
    [
        ("optim__of__sam", "from sharp_plugins.host.passes import Passes", "host.passes"),
        ("core__of__pairs", "def f():\n    from sharp_plugins import files", "files"),
        ("networks__of__lora", "from sharp_plugins.files import text", "files.text"),
        ("models__of__bert", "from sharp_plugins.criterions import stock", "criterions.stock"),
        ("runs__of__engine", "import sharp_plugins.glue.tasks", "glue.tasks"),
        ("lora__of__merge", "from sharp_plugins.host.saving import install", "host.saving"),
    ],
)
def test_an_import_that_climbs_or_goes_sideways_is_found(tree, name, line, to):
    folder, _, module = to.partition(".")
    other = f"{folder}__of__{module or '__init__'}"
    found = arrows_that_climb(graph_of(tree(**{name: line, other: ""})))
    assert found == [(name.replace("__of__", "."), to)]


def test_the_package_itself_imports_nothing(tree):
    assert arrows_that_climb(graph_of(tree(__init__="from sharp_plugins.core import a", core__of__a=""))) == [("", "core.a")]


def test_what_is_for_type_checkers_is_no_import(tree):
    root = tree(
        core__of__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sharp_plugins.host import b", host__of__b=""
    )
    assert graph_of(root)["core.a"] == set()


def test_a_new_folder_wants_a_level(tree):
    assert arrows_that_climb(graph_of(tree(novel__of__part="")))[0][0] == "novel.part"


def test_code_in_a_package_is_found(tree):
    root = tree(__init__="def __getattr__(name): ...")
    assert code_in_packages(root) == []
    (root / "host" / "__init__.py").write_text("class Room: ...")
    (root / "__init__.py").write_text("def helper(): ...")
    assert sorted(code_in_packages(root)) == [("", "helper"), ("host", "Room")]


def test_a_long_file_is_found(tree):
    root = tree(host__of__trainer="x = 1\n" * 4, host__of__update="x = 1\n" * 3)
    assert long_files(root / "host", 3) == ["trainer.py"]


# ---------------------------------------------------------------------- the tests' own files


def test_what_tests_share_has_a_name_of_its_own():
    """Two folders have files of one name; which of them is imported would depend on the order of the folders."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    shared = [path.stem for path in files if not path.name.startswith("test_") and path.name != "conftest.py"]
    assert len(shared) == len({*shared})
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("test_")], path


# Tests of no folder alone.
OF_MANY = {"contract", "distributed", "examples", "gpu", "integration"}


def test_the_tests_mirror_the_folders():
    tests = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert tests - OF_MANY == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
