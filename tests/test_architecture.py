"""Who may import whom: read from the source, late imports inside functions included.

The checker takes sources as text, so the second half of this file plants each kind of violation and
sees it caught.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bench", "models", "loaders", "results")

# bench/ in layers, lowest first: a module imports from lower layers only, so two of one layer never
# meet.
LAYERS = (
    {
        "boxes",
        "clock",
        "demo",
        "desk",
        "footprint",
        "machine",
        "precision",
        "process",
        "rates",
        "refs",
        "settings",
        "sums",
        "world",
    },
    {"entropies", "overlaps"},
    {"compounds", "distances"},
    {
        "degradations",
        "lesions",
        "losses",
        "optimizer",
        "regularizers",
        "schedules",
        "surfaces",
        "wrapped",
    },
    {"optimizers"},
    {"borrowed"},
    {"averaging", "datasets", "doctor", "heads", "metrics", "rows", "segmented", "steps"},
    {"metric_rows", "mixing", "networks", "transfer"},
    {"study"},
    {"catalogue", "evaluate", "expand", "objective"},
    {"resolve"},
    {"train"},
    {"estimate", "run"},
    {"lanes", "show", "tune"},
    {"cli"},
)
LEVELS = {f"bench.{name}": level for level, names in enumerate(LAYERS) for name in names}

# package: the modules that alone may import it
ONLY = {
    "ray": {"bench.lanes", "bench.tune"},
    "ray.train": {"bench.lanes"},
    "ray.tune": {"bench.tune"},
    "nvidia.dali": {"loaders.dali"},
}

# A report is made where none of these is installed.
RESULTS_NEVER = ("torch", "torchvision", "monai", "ray", "nvidia")


def imported(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import: statements, import_module("..."), `import a; a.b`.

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
                ast.unparse(function).rpartition(".")[2] in ("import_module", "__import__")
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


def broken(module: str, name: str, modules: Mapping[str, str]) -> str | None:
    """Return why `module` may not import `name`, or None."""
    room = module.partition(".")[0]
    target = known(name, modules)
    for package, users in ONLY.items():
        if inside(name, package) and module not in users:
            return f"only {', '.join(sorted(users))} may import {package}"
    if room == "results" and name.partition(".")[0] in RESULTS_NEVER:
        return "results imports none of torch, Ray and DALI"
    if name.partition(".")[0] == "tests":
        return "the project does not import its tests"
    if target is None or (target == "bench" and room == "bench"):
        return None
    if room != "bench" and target.partition(".")[0] != room:
        return f"{room} imports neither bench nor another room"
    if inside(target, "bench") and LEVELS[target] >= LEVELS.get(module, -1) and target != module:
        return "cli -> lanes, tune -> run -> train -> study -> the tables"
    return None


def violations(modules: Mapping[str, str]) -> list[str]:
    """Check sources by dotted module name (a package's own name: its __init__)."""
    found = [
        f"{module}: has no place in LAYERS of {Path(__file__).name}"
        for module in modules
        if inside(module, "bench") and module != "bench" and module not in LEVELS
    ]
    if found:
        return found
    for module, source in modules.items():
        for line, name in imported(module, source, is_package=module in ROOMS):
            if why := broken(module, name, modules):
                found.append(f"{module}:{line} imports {name}: {why}")
    return found


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


def test_results_load_without_torch_ray_and_dali():
    """The libraries that results imports do not bring them in either."""
    names = [name for name in project() if inside(name, "results")]
    code = (
        f"import sys, importlib\n[importlib.import_module(n) for n in {names}]\n"
        f"print(*{{m.partition('.')[0] for m in sys.modules}} & set({RESULTS_NEVER}))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert loaded.split() == []


CLEAN = {
    "bench": "",
    "bench.cli": "def main():\n    from bench import lanes, run\n",
    "bench.lanes": "import ray\nimport ray.train.torch\nfrom bench import run\n",
    "bench.tune": "from ray import tune\nfrom bench.run import f\n",
    "bench.run": "from bench import train\nimport loaders.store\nimport results.store",
    "bench.train": "import torch\nfrom bench.study import Study\nfrom models import MODELS\n",
    "bench.study": "from bench.losses import LOSSES\n",
    "bench.losses": "import torch\n",
    "loaders": "from loaders import store\n",
    "loaders.store": "from . import cases\nimport numpy\n",
    "loaders.cases": "",
    "loaders.dali": "from nvidia.dali import fn\n",
    "models": "import torch\n",
    "results": "",
    "results.store": "import pyarrow\nfrom results import schema\n",
    "results.schema": "",
}

PLANTED = [
    ("bench.run", "import ray", "only bench.lanes, bench.tune may import ray"),
    (
        "bench.train",
        "def f():\n    import ray.train",
        "only bench.lanes, bench.tune may import ray",
    ),
    ("bench.tune", "from ray.train import report", "only bench.lanes may import ray.train"),
    ("bench.tune", "import ray\nray.train.report()", "only bench.lanes may import ray.train"),
    ("bench.tune", "import ray as r\nr.train.report()", "only bench.lanes may import ray.train"),
    ("bench.lanes", "from ray import tune", "only bench.tune may import ray.tune"),
    ("bench.cli", "from ray import train", "only bench.lanes, bench.tune may import ray"),
    ("loaders.host", "from nvidia import dali", "only loaders.dali may import nvidia.dali"),
    (
        "bench.run",
        "if 1:\n  import nvidia.dali.fn as f",
        "only loaders.dali may import nvidia.dali",
    ),
    (
        "loaders.host",
        "import importlib\nimportlib.import_module('nvidia.dali')",
        "only loaders.dali may import nvidia.dali",
    ),
    ("results.store", "def f():\n    import torch", "results imports none of torch"),
    ("results.plots", "from monai.metrics import dice", "results imports none of torch"),
    ("results.store", "import bench.run", "results imports neither bench nor another room"),
    ("results.store", "from models import MODELS", "results imports neither bench nor another"),
    ("loaders.store", "from results import schema", "loaders imports neither bench nor another"),
    ("models", "from bench import check_packages", "models imports neither bench nor another room"),
    ("loaders.store", "from ..bench import run", "loaders imports neither bench nor another room"),
    ("bench.run", "from bench import lanes", "cli -> lanes, tune -> run"),
    ("bench.lanes", "import bench.tune", "cli -> lanes, tune -> run"),
    ("bench.train", "def f():\n    from .run import Queue", "cli -> lanes, tune -> run"),
    ("bench.losses", "from bench.study import Study", "cli -> lanes, tune -> run"),
    ("bench.losses", "from bench import metrics", "cli -> lanes, tune -> run"),
    ("bench", "from bench import cli", "cli -> lanes, tune -> run"),
    ("bench.helpers", "", "has no place in LAYERS"),
    ("bench.run", "from tests import conftest", "does not import its tests"),
]


def test_the_checker_passes_what_is_allowed():
    assert violations(CLEAN) == []


@pytest.mark.parametrize(("module", "source", "why"), PLANTED)
def test_the_checker_catches(module, source, why):
    planted = {"bench.metrics": ""} | CLEAN | {module: source}
    found = violations(planted)
    assert found
    assert all(f.startswith(module) and why in f for f in found)
