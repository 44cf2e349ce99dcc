"""The allowed imports of each package, and imports without side effects."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = """
    errors          -
    events          errors
    model           -
    tasks           -
    config          errors model
    http_server     errors tasks config
    s3              errors model tasks
    queue           errors events model tasks config
    monitoring      errors events model tasks config http_server queue
    transfer        errors model tasks config s3 monitoring
    worker          errors events model tasks s3 queue monitoring
    notifications   errors events model tasks config http_server s3 queue monitoring worker
    reconcile       errors events model tasks config s3 queue monitoring transfer worker
    mirror          errors model tasks config http_server s3 queue monitoring transfer worker
    operations      errors model events tasks config s3 queue monitoring transfer
    listener        errors events tasks config queue monitoring transfer worker notifications reconcile
    api             errors events model tasks config s3 monitoring transfer reconcile
    programs        model tasks config s3 queue monitoring transfer notifications api
    client          errors events tasks config monitoring transfer notifications reconcile listener api
    scripts         errors model tasks config s3 queue monitoring transfer notifications reconcile mirror operations \
                    listener
    __main__        scripts
"""
"""Each module or package and the ones that it may import, from the bottom to the top."""

LIBRARIES = {
    "async_timeout": "tasks",
    "annotated_types": "config operations",
    "argcomplete": "scripts",
    "aiohappyeyeballs": "tasks",
    "aiohttp": "http_server mirror monitoring notifications operations",
    "boto3": "notifications s3 scripts",
    "botocore": "notifications s3 scripts",
    "defusedxml": "s3",
    "humanize": "monitoring",
    "jinja2": "monitoring",
    "prometheus_client": "monitoring scripts",
    "pydantic": "config operations",
    "pythonjsonlogger": "monitoring",
    "redis": "listener mirror monitoring notifications operations queue scripts worker",
    "rich": "scripts",
    "supervisor": "scripts",
    "tomli": "config",
    "tomlkit": "scripts",
    "tomllib": "config",
    "uvloop": "tasks",
    "yarl": "mirror",
    # Of the standard library: what belongs to one place alone.
    "configparser": "scripts",
    "hmac": "mirror s3",
    "http": "s3 scripts",
    "ssl": "mirror s3",
    "xml": "s3",
}
"""The packages that import each library: a change of a library touches only these."""


@dataclass
class Module:
    """What one source file imports.

    Attributes:
        ours: our modules by name, without "s3s3."; "" is the package itself, with its version.
        libraries: top-level names of all others, but for those that only a type checker sees.
    """

    name: str
    tree: ast.Module
    is_package: bool
    ours: set[str] = field(default_factory=set)
    libraries: set[str] = field(default_factory=set)
    levels: set[bool] = field(default_factory=set)

    @property
    def row(self) -> str:
        return row_of(self.name)


@cache
def rows() -> dict[str, set[str]]:
    """The table, as row -> rows that it imports."""
    found = {}
    for line in LAYERS.replace("\\\n", " ").splitlines():
        if line.strip():
            name, *imports = line.split()
            found[name] = set(imports) - {"-"}
    return found


def row_of(name: str) -> str:
    """The row of a module: its own, else its package's."""
    table = rows()
    return name if name in table else name.partition(".")[0]


@cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted((ROOT / "s3s3").rglob("*.py")):
        parts = path.relative_to(ROOT / "s3s3").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, ast.parse(path.read_text()), is_package)
    for module in found.values():
        read_imports(module, set(found))
    return found


def read_imports(module: Module, names: set[str]) -> None:
    for_types_only = {
        inner
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            imported = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            continue
        for target in imported:
            if target.split(".")[0] == "s3s3":
                module.levels.add(isinstance(node, ast.ImportFrom) and node.level > 0)
                module.ours.add(nearest(target.partition(".")[2], names))
            elif node not in for_types_only:
                module.libraries.add(target.split(".")[0])
    module.ours.discard(module.name)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The full name of what `from X import` names."""
    if not node.level:
        return node.module or ""
    parts = f"s3s3.{module.name}".rstrip(".").split(".")
    up = node.level - 1 if module.is_package else node.level
    return ".".join([*parts[: len(parts) - up], *filter(None, [node.module])])


def nearest(target: str, names: set[str]) -> str:
    """The module that holds what is imported: `errors.NoSuchKey` is `errors`."""
    while target not in names:
        target = target.rpartition(".")[0]
    return target


def test_every_module_has_a_row_and_every_row_has_a_module() -> None:
    found = {module.row for module in modules().values() if module.name}
    assert found == set(rows()), "LAYERS needs exactly one row per module or package"


def test_a_row_imports_only_rows_above_it() -> None:
    above: set[str] = set()
    for row, imports in rows().items():
        assert imports <= above, f"{row} imports {imports - above}, which are above it or do not exist"
        above.add(row)


@pytest.mark.parametrize("row", rows())
def test_a_row_has_exactly_the_imports_of_its_modules(row: str) -> None:
    mine = [module for module in modules().values() if module.row == row]
    imported = {row_of(name) for module in mine for name in module.ours if name} - {row}
    assert imported == rows()[row], "LAYERS and the code differ: is the new import wanted?"


def test_contributing_lists_every_package() -> None:
    listed = re.findall(r"`([a-z_0-9]+)/?`", (ROOT / "CONTRIBUTING.md").read_text())
    assert {row.partition(".")[0] for row in rows()} <= set(listed)


def test_libraries_are_imported_only_by_the_packages_in_the_table() -> None:
    ours = {module.name.partition(".")[0] for module in modules().values()}
    used: dict[str, set[str]] = {library: set() for library in LIBRARIES}
    for module in modules().values():
        for library in module.libraries:
            if library in LIBRARIES or library not in sys.stdlib_module_names:
                assert library not in ours, f"{module.name}: is {library} ours? Then import it as .{library}"
                used.setdefault(library, set()).add(module.row)
    assert used == {library: set(users.split()) for library, users in LIBRARIES.items()}


def test_there_is_no_import_cycle() -> None:
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> None:
        assert name not in way, f"an import cycle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for imported in sorted(modules()[name].ours - {""}):
                follow(imported, [*way, name])
            done.add(name)

    for name in modules():
        if name:
            follow(name, [])


def test_a_package_uses_either_relative_or_absolute_imports() -> None:
    """With dots, or from s3s3 on; not now one and now the other."""
    for package in {module.name.rpartition(".")[0] for module in modules().values()}:
        ways = {way for module in modules().values() if module.name.rpartition(".")[0] == package
                for way in module.levels}  # fmt: skip
        assert len(ways) <= 1, package


# -- importing does nothing

IMPORT_ALL = """
import importlib, sys
libraries, names = (text.split() for text in sys.argv[1:])
for library in libraries:
    try:
        importlib.import_module(library)
    except ImportError:
        pass  # of another Python than this, or an extra that is not installed
OF_WORK = ("socket.", "subprocess.", "_thread.", "os.exec", "os.fork", "os.mkdir", "os.remove", "tempfile.", "signal.")
def report(event, arguments):
    if event.startswith(OF_WORK):
        print(event, arguments)
    elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        print(event, arguments)
sys.addaudithook(report)
for name in names:
    importlib.import_module(name)
"""


def library_modules() -> set[str]:
    found = set()
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] not in ("s3s3", "__future__")}


def import_all(names: list[str], directory: Path, libraries: set[str]) -> str:
    """Import the libraries, then these, in a new interpreter; return what these did beside being read."""
    command = [sys.executable, "-B", "-c", IMPORT_ALL, " ".join(sorted(libraries)), " ".join(names)]
    imported = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert imported.returncode == 0, imported.stderr
    return imported.stdout


@pytest.mark.long
def test_importing_opens_no_file_and_no_socket_and_starts_nothing() -> None:
    assert import_all([f"s3s3.{name}".rstrip(".") for name in modules()], ROOT, library_modules()) == ""


def test_work_at_import_is_detected(tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text("open('/etc/hosts').close()")
    (tmp_path / "listens.py").write_text("import socket; socket.socket().close()")
    (tmp_path / "starts.py").write_text("import threading; threading.Thread(target=print).start()")
    for name, event in (("reads", "open"), ("listens", "socket."), ("starts", "_thread.")):
        done = import_all([name], tmp_path, set())
        # Python 3.10 and 3.11 have no audit event for threads.
        assert event in done or (name == "starts" and sys.version_info < (3, 12))


# -- importing takes no longer than it must

IMPORTED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [("scripts.bucket", {"aiohttp", "boto3", "botocore", "humanize", "prometheus_client", "pydantic"}),
     ("scripts.listen", {"boto3", "botocore", "humanize", "jinja2", "pydantic", "pythonjsonlogger"}),
     ("client", {"aiohttp", "boto3", "botocore", "prometheus_client", "pydantic"})],
)  # fmt: skip
def test_slow_libraries_are_imported_lazily(name: str, unneeded: set[str]) -> None:
    """boto3 is for AWS and its keys, SQS and the API; aiohttp is for HTTP servers; pydantic for reading a file."""
    command = [sys.executable, "-c", IMPORTED, f"s3s3.{name}"]
    imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert not unneeded & set(imported.stdout.split())


# -- no global state

CHANGES = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft",
           "remove", "setdefault", "update"}  # fmt: skip
CONTAINERS = {"dict", "list", "set", "defaultdict", "deque", "OrderedDict", "Counter", "bytearray", "count"}


def is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in CONTAINERS
    return isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))


def containers(tree: ast.Module) -> Iterator[str]:
    """The names of a module's own lists, dicts and sets."""
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and is_container(node.value):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield ast.unparse(target)


def changed(node: ast.AST) -> ast.expr | None:
    """What a piece of code changes in place, if it does."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        return node.value
    if isinstance(node, ast.AugAssign):
        return node.target
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        return node.func.value
    return None


def faults(tree: ast.Module) -> list[str]:
    own = {name for name in containers(tree) if name != "__all__"}
    found = [f"{name} is a container of the module and no constant" for name in own if not name.isupper()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.append(f"global {', '.join(node.names)}")
        target = changed(node)
        if isinstance(target, ast.Name) and target.id in own:
            found.append(f"line {getattr(node, 'lineno', 0)} changes {target.id}")
    return found


@pytest.mark.parametrize("name", modules())
def test_no_module_keeps_state(name: str) -> None:
    assert faults(modules()[name].tree) == []


@pytest.mark.parametrize(
    "code",
    ["seen = {}", "SEEN = set()\ndef f(x): SEEN.add(x)", "SEEN: dict = {}\ndef f(x): SEEN[x] = 1",
     "SEEN = []\ndef f(x):\n    global SEEN\n    SEEN = [x]", "from collections import deque\nlast = deque()"],
)  # fmt: skip
def test_module_state_is_detected(code: str) -> None:
    assert faults(ast.parse(code)) != []
