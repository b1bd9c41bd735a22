"""Who may import whom, and how the tree may look: read from the source, late imports included.

A unit is a folder of a room, with what is below it, or a file directly in a room. The checkers take
sources as text, so the second half of this file plants each kind of violation and sees it caught.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bench", "models", "loaders", "results")

# The units of each room in layers, lowest first: a unit imports from lower layers of its room only,
# so two of one layer never meet.
LAYERS: dict[str, tuple[set[str], ...]] = {
    "bench": (
        {"core"},
        {"optimizers", "losses", "metrics", "storage"},
        {"study"},
        {"training"},
        {"planning"},
        {"execution"},
        {"display", "catalogue", "doctor", "demo", "look"},
        {"api"},
        {"cli"},
        {"command"},
    ),
    "loaders": (
        {"targets", "cores", "open_files"},
        {"cases", "memory"},
        {"boxes"},
        {"formats", "sampling", "phantoms"},
        {"datasets", "store"},
        {"batches"},
    ),
    "models": ({"late", "output", "spec", "stem"}, {"classification"}, {"segmentation"}, {"table"}),
    "results": (
        {"tables", "text", "yaml_text", "statistics"},
        {"verdict"},
        {"run_folder", "prices", "status"},
        {"claims"},
        {"report", "export", "compare"},
        {"look"},
    ),
}

# package: the unit or module that alone may import it
ONLY = {
    "ray": "bench.execution",
    "ray.train": "bench.execution.ray.lanes",
    "ray.tune": "bench.execution.phases.ray_tune",
    "nvidia.dali": "loaders.batches.dali_loader",
}

# A report is made where none of these is installed.
RESULTS_NEVER = ("torch", "torchvision", "monai", "ray", "nvidia")

# The actor that lanes ask has a process of its own, which these would fill (torch: 300 MB).
MAILBOX_NEVER = ("torch", "ray", "numpy")

# What a newcomer takes in at a glance; an `__init__.py` counts.
MOST_FILES = 12


def imported(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import.

    Statements, `import a; a.b`, import_module("...") and models.late's late("...").

    `from a import b` yields `a` and `a.b`, since b may be a module.
    """
    package = module if is_package else module.rpartition(".")[0]
    bound: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield node.lineno, alias.name
                    local = alias.asname or alias.name.partition(".")[0]
                    bound[local] = alias.name if alias.asname else local
            case ast.ImportFrom():
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                origin = ".".join(filter(None, [base if node.level else "", node.module]))
                yield node.lineno, origin
                for alias in node.names:
                    yield node.lineno, f"{origin}.{alias.name}"
                    bound[alias.asname or alias.name] = f"{origin}.{alias.name}"
            case ast.Call(func=function, args=[ast.Constant(value=str() as name), *_]) if (
                ast.unparse(function).rpartition(".")[2] in ("import_module", "__import__", "late")
            ):
                yield node.lineno, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in bound and rest.replace(".", "").isidentifier():
                yield node.lineno, f"{bound[root]}.{rest}"


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def known(name: str, modules: Mapping[str, str]) -> str | None:
    """Return the module of the project that a dotted name belongs to, or None."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def is_package(module: str, modules: Mapping[str, str]) -> bool:
    """Whether a module is an `__init__.py`: others lie below it, or it is a room."""
    return module in ROOMS or any(name.startswith(f"{module}.") for name in modules)


def unit(module: str) -> str:
    """Return the unit of a module: `bench.core` for `bench.core.settings`."""
    return ".".join(module.split(".")[:2])


def level(module: str) -> int | None:
    """Return the layer of a module within its room, None for a room itself or a stranger."""
    room, _, name = unit(module).partition(".")
    for number, names in enumerate(LAYERS.get(room, ())):
        if name in names:
            return number
    return None


def broken(module: str, name: str, modules: Mapping[str, str]) -> str | None:
    """Return why `module` may not import `name`, or None."""
    room = module.partition(".")[0]
    for package, user in ONLY.items():
        if inside(name, package) and not inside(module, user):
            return f"only {user} may import {package}"
    if room == "results" and name.partition(".")[0] in RESULTS_NEVER:
        return "results imports none of torch, Ray and DALI"
    if name.partition(".")[0] == "tests":
        return "the project does not import its tests"
    target = known(name, modules)
    if target is None or target == module or target in ROOMS:
        return None
    if target.partition(".")[0] != room:
        return None if room == "bench" else f"{room} imports neither bench nor another room"
    if unit(target) == unit(module):
        return None
    above, below = level(module), level(target)
    if above is None or below is None or below >= above:
        return f"against the directions: {unit(module)} -> {unit(target)}"
    return None


def arrows(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return module -> modules of the project that it imports; an `__init__.py` imports nothing."""
    found: dict[str, set[str]] = {}
    for module, source in modules.items():
        names = imported(module, source, is_package=is_package(module, modules))
        targets = {known(name, modules) for _, name in names}
        found[module] = {t for t in targets if t and t != module and not is_package(t, modules)}
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one circle of a graph, first node repeated at its end; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def violations(modules: Mapping[str, str]) -> list[str]:
    """Check sources by dotted module name (a package's own name: its __init__)."""
    found = []
    for module, source in modules.items():
        if is_package(module, modules):
            statements = ast.parse(source).body
            if len(statements) != 1 or ast.get_docstring(ast.parse(source)) is None:
                found.append(f"{module}: an __init__.py is a docstring and nothing else")
        elif level(module) is None:
            found.append(f"{module}: has no place in LAYERS of {Path(__file__).name}")
        for line, name in imported(module, source, is_package=is_package(module, modules)):
            if why := broken(module, name, modules):
                found.append(f"{module}:{line} imports {name}: {why}")
    graph = arrows(modules)
    units: dict[str, set[str]] = {}
    for module, targets in graph.items():
        units.setdefault(unit(module), set()).update(
            unit(target) for target in targets if unit(target) != unit(module)
        )
    for what, drawn in (("units", units), ("modules", graph)):
        if found_circle := circle(drawn):
            found.append(f"a circle of {what}: {' -> '.join(found_circle)}")
    return found


def crowded(files: list[str]) -> list[str]:
    """Return the folders that hold more Python files than MOST_FILES."""
    counts = Counter(str(Path(file).parent) for file in files if file.endswith(".py"))
    return [f"{folder} holds {n} files" for folder, n in counts.items() if n > MOST_FILES]


def project() -> dict[str, str]:
    modules = {}
    for path in sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


def test_the_project_keeps_its_rules():
    modules = project()
    assert set(ROOMS) <= set(modules)
    assert violations(modules) == []


def test_every_folder_can_be_taken_in():
    files = [
        str(path.relative_to(ROOT))
        for room in (*ROOMS, "tests")
        for path in (ROOT / room).rglob("*.py")
    ]
    assert len(files) > 200
    assert crowded(files) == []


def test_results_load_without_torch_ray_and_dali():
    """The libraries that results imports do not bring them in either."""
    names = [name for name in project() if inside(name, "results")]
    assert loaded(names, RESULTS_NEVER) == []


def test_the_mailbox_loads_neither_torch_nor_ray_nor_numpy():
    assert loaded(["bench.execution.mailbox"], MAILBOX_NEVER) == []


def loaded(names: list[str], never: tuple[str, ...]) -> list[str]:
    """Return which of `never` are loaded in a process that imports `names`."""
    code = (
        f"import sys, importlib\n[importlib.import_module(n) for n in {names}]\n"
        f"print(*{{m.partition('.')[0] for m in sys.modules}} & set({never}))"
    )
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()


DOC = '"""What stands here."""\n'
CLEAN = {
    "bench": DOC,
    "bench.cli": "def main():\n    from bench.execution.ray import lanes\n",
    "bench.core": DOC,
    "bench.core.settings": "",
    "bench.execution": DOC,
    "bench.execution.ray": DOC,
    "bench.execution.ray.lanes": "import ray.train\nfrom bench.execution import trial_queue\n",
    "bench.execution.phases.ray_tune": "from ray import tune\n",
    "bench.execution.cluster": "import ray\n",
    "bench.execution.trial_queue": "from bench.training import train\nimport results.tables.store",
    "bench.losses": DOC,
    "bench.losses.table": "import torch\nfrom bench.core.settings import merge\n",
    "bench.metrics": DOC,
    "bench.metrics.table": "",
    "bench.study": DOC,
    "bench.study.schema": "from bench.losses.table import LOSSES\n",
    "bench.training": DOC,
    "bench.training.train": "from bench.study.schema import Study\nfrom models.table import MODELS",
    "loaders": DOC,
    "loaders.cases": "",
    "loaders.formats": DOC,
    "loaders.formats.npy": "from .. import cases\nimport numpy\n",
    "loaders.formats.dicom": DOC,
    "loaders.formats.dicom.file": "from loaders.formats.npy import load\n",
    "loaders.formats.pictures": "from loaders.formats.dicom import file\n",
    "loaders.store": DOC,
    "loaders.store.read": "from loaders.formats import npy\n",
    "loaders.batches": DOC,
    "loaders.batches.dali_loader": "from nvidia.dali import fn\nfrom loaders.store import read\n",
    "models": DOC,
    "models.spec": "import torch\n",
    "models.table": "from models.spec import Model\n",
    "results": DOC,
    "results.tables": DOC,
    "results.tables.schema": "",
    "results.tables.store": "import pyarrow\nfrom results.tables import schema\n",
}

RAY = "only bench.execution may import ray"
PLANTED = [
    ("bench.training.train", "def f():\n    import ray", RAY),
    ("bench.cli", "from ray import train", RAY),
    ("bench.execution.cluster", "from ray.train import report", "only bench.execution.ray.lanes"),
    ("bench.execution.cluster", "import ray\nray.train.report()", "only bench.execution.ray.lanes"),
    (
        "bench.execution.cluster",
        "import ray as r\nr.train.report()",
        "only bench.execution.ray.lanes",
    ),
    (
        "bench.execution.ray.lanes",
        "from ray import tune",
        "only bench.execution.phases.ray_tune may import",
    ),
    ("loaders.batches.torch_loader", "from nvidia import dali", "only loaders.batches.dali_loader"),
    (
        "bench.training.train",
        "if 1:\n  import nvidia.dali.fn as f",
        "only loaders.batches.dali_loader may import nvidia.dali",
    ),
    (
        "loaders.store.read",
        "import importlib\nimportlib.import_module('nvidia.dali')",
        "only loaders.batches.dali_loader may import nvidia.dali",
    ),
    ("results.tables.store", "def f():\n    import torch", "results imports none of torch"),
    ("results.report.plots", "from monai.metrics import dice", "results imports none of torch"),
    ("results.tables.store", "import bench.study.schema", "imports neither bench nor another room"),
    (
        "results.tables.store",
        "from models.table import MODELS",
        "imports neither bench nor another",
    ),
    (
        "loaders.store.read",
        "from results.tables import schema",
        "imports neither bench nor another",
    ),
    ("models.table", "from bench.core import settings", "imports neither bench nor another room"),
    ("loaders.store.read", "from ...bench.cli import main", "imports neither bench nor another"),
    (
        "bench.training.train",
        "from bench.execution.ray import lanes",
        "bench.training -> bench.exec",
    ),
    ("bench.losses.table", "from bench.study.schema import Study", "bench.losses -> bench.study"),
    ("bench.losses.table", "from bench.metrics import table", "bench.losses -> bench.metrics"),
    ("bench.core.settings", "def f():\n    from bench.cli import main", "bench.core -> bench.cli"),
    ("loaders.formats.npy", "from loaders.store import read", "loaders.formats -> loaders.store"),
    ("models.spec", "from models.table import MODELS", "models.spec -> models.table"),
    ("bench.helpers", "", "has no place in LAYERS"),
    ("bench.core", f"{DOC}from bench.core.settings import merge\n", "a docstring and nothing else"),
    ("bench.core", "", "a docstring and nothing else"),
    ("bench.training.train", "from tests import conftest", "does not import its tests"),
]


def test_the_checker_passes_what_is_allowed():
    assert violations(CLEAN) == []


@pytest.mark.parametrize(("module", "source", "why"), PLANTED)
def test_the_checker_catches(module, source, why):
    found = violations(CLEAN | {module: source})
    assert [f for f in found if f.startswith(module) and why in f]


def test_a_circle_of_modules_within_a_unit_is_caught():
    planted = {"results.tables.schema": "from results.tables import store\n"}
    (found,) = violations(CLEAN | planted)
    assert found.startswith("a circle of modules: ")
    assert "results.tables.schema -> results.tables.store" in found


def test_a_circle_of_units_is_caught():
    planted = {"bench.core.settings": "from bench.study.schema import Study\n"}
    circles = [f for f in violations(CLEAN | planted) if f.startswith("a circle of units: ")]
    assert circles
    assert "bench.core -> bench.study" in circles[0]


def test_a_crowded_folder_is_caught():
    files = [f"bench/core/m{n}.py" for n in range(MOST_FILES)]
    assert crowded(files) == []
    assert crowded([*files, "bench/core/__init__.py", "bench/py.typed"]) == [
        f"bench/core holds {MOST_FILES + 1} files"
    ]
