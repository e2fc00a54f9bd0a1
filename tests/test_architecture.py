"""The layers of the package: who may import whom, and which libraries where.

Reads the sources and imports none of them, so it holds on a machine without the extras.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sepconv_video"
NAME = PACKAGE.name

LAYERS = [
    ["cli"],
    ["arguments", "display", "interrupts"],
    ["batch"],
    ["cluster", "workers", "pipeline", "folder_report", "jobs"],
    ["executor"],
    ["production"],
    ["engine", "doctor", "segmenting"],
    ["groups"],
    ["weights", "memory", "neighbours"],
    ["models", "devices"],
    [
        "kernels",
        "color",
        "video",
        "scenes",
        "cuts",
        "schedule",
        "stream",
        "parts",
        "targets",
    ],
    ["bars"],
    ["frames", "options", "shipped", "numbered", "pieces", "report", "timing"],
    ["errors"],
]
LEVELS = {module: level for level, layer in enumerate(reversed(LAYERS)) for module in layer}

# Beside the package's modules: it may use them all, none of them may use it.
APART = {"training"}

# Who may import a library; those not named may be imported anywhere.
FENCES = {
    "av": {"video"},
    "cupy": {"kernels"},
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
    "click": {"arguments", "cli", "display"},
    "tqdm": {"display"},
    "filelock": {"parts", "folder_report"},
    "ray": {"cluster"},
    "safetensors": {"weights"},
    "cv2": {"training"},
    "matplotlib": set(),
    "skimage": set(),
    "torch": {
        "kernels",
        "color",
        "models",
        "weights",
        "memory",
        "devices",
        "neighbours",
        "groups",
        "engine",
        "doctor",
        "timing",
        "training",
    },
}
# numpy comes with the frames; these do without.
PURE = {"errors", "options", "cuts", "schedule", "stream", "cli", "interrupts"}


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    """The top-level module a file belongs to; empty for `__init__` and `__main__`."""
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if top in {"__init__", "__main__"} else top


def imports(path):
    """Every module named in an import, absolute, also those made late in a function body."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            # `from sepconv_video import x` may name a module as well as an attribute.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def absolute(path, node):
    if node.level == 0:
        return node.module
    package = [NAME, *path.relative_to(PACKAGE).parent.parts]
    parents = package[: len(package) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def siblings(path):
    """The other top-level modules of the package that a file imports."""
    own = module_of(path)
    for name in imports(path):
        first, _, rest = name.partition(".")
        top = rest.partition(".")[0]
        if first == NAME and top in LEVELS.keys() | APART and top != own:
            yield top


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_layers_below(path):
    module = module_of(path)
    if not module:
        assert not APART.intersection(siblings(path))
        return
    assert module in LEVELS or module in APART, f"`{module}` has no place in LAYERS yet"
    for other in siblings(path):
        assert other not in APART, f"`{module}` must not know `{other}`"
        if module not in APART:
            assert LEVELS[other] < LEVELS[module], f"`{module}` must not import `{other}`"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_party_stays_behind_its_fence(path):
    module = module_of(path)
    for name in imports(path):
        library = name.partition(".")[0]
        allowed = FENCES.get(library)
        assert allowed is None or module in allowed, f"`{library}` belongs in {allowed}"
        assert library != "numpy" or module not in PURE, f"`{module}` does without numpy"


def test_the_reader_of_imports_sees_every_form(tmp_path):
    """A fence that sees nothing would pass everything."""
    path = PACKAGE / "video" / "made.py"
    node = ast.parse("from ..frames import Frame").body[0]
    assert absolute(path, node) == f"{NAME}.frames"
    node = ast.parse("from . import probe").body[0]
    assert absolute(path, node) == f"{NAME}.video"
    made = tmp_path / "made.py"
    made.write_text("import av.video\ndef f():\n    from torch import nn\n")
    assert set(imports(made)) == {"av.video", "torch.nn"}


def test_every_fence_names_modules_that_exist_in_the_plan():
    for allowed in FENCES.values():
        assert allowed <= LEVELS.keys() | APART


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_depends_on_the_time_of_day(path):
    """Clocks jump: only `time.monotonic` measures."""
    text = path.read_text(encoding="utf-8")
    for wall_clock in ("time.time(", "datetime."):
        assert wall_clock not in text


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
