"""The shape of the code: imports point down only, and what must hold in every file."""

import ast
import dataclasses
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from this_machine import is_instant

from src import datasets
from src.cli.flags import FLAGS
from src.datasets import mini, toy

ROOT = Path(__file__).parents[1]
# The rooms of src/, top first: a folder, or a file of its landing. A module imports from lower rooms and from its own.
ROOMS = ("src.api", "src.main", "src.run", "src.store", "src.args", "src.report", "src.cli", "src.models",
         "src.datasets", "src.machine", "src.templates", "src.errors", "src", "clip")
# Floors inside a room, top first; "*" takes every module that no other floor names.
FLOORS = {
    "src.api": (("src.api",), ("src.api.commands",), ("*",), ("src.api.keywords",)),
    "src.run": (("src.run.plan", "src.run.single", "src.run.chain", "src.run.inputs", "src.run.rescore",
                 "src.run.reproduce"), ("src.run.sequence",), ("src.run.task", "src.run.rescorer"),
                ("src.run.cached",), ("src.run.scoring",), ("*",)),
    "src.models": (("src.models",), ("*",), ("src.models.training",),
                   ("src.models.state", "src.models.resuming", "src.models.guard"),
                   ("src.models.batch_norms", "src.models.retrieval", "src.models.linear_probe"),
                   ("src.models.evaluation",), ("src.models.classifiers", "src.models.features"),
                   ("src.models.modeling", "src.models.lora_injection", "src.models.memory", "src.models.optimizers"),
                   ("src.models.helpers", "src.models.algebra", "src.models.hooks", "src.models.attached",
                    "src.models.bases", "src.models.fingerprints", "src.models.modes", "src.models.taps",
                    "src.models.wrapped")),
    "src.datasets": (("src.datasets.check",), ("src.datasets",), ("*",),
                     ("src.datasets.common", "src.datasets.loading", "src.datasets.seeds",
                      "src.datasets.sources")),
    "src.report": (("*",), ("src.report.tables",), ("src.report.measures",),
                   ("src.report.conditions", "src.report.sequence")),
    "clip": (("clip",), ("clip.loader",), ("*",), ("clip.files",), ("clip.errors",)),
}
MOST_ROOMS = 13  # on the landing of src/
TARGET = re.compile(r"((?:src|clip)(?:\.\w+)+)(?::\w+)?")  # "module:Class" in a table is an arrow too
BELOW_THE_COMMAND_LINE = ("src/models/", "src/datasets/", "src/templates/", "src/machine/", "src/store/checkpoint.py",
                          "src/report/sequence.py", "clip/")


@cache
def sources():
    """{module: (path from the root, syntax tree)} of src/ and clip/."""
    found = {}
    for path in sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("clip/**/*.py")]):
        name = path.relative_to(ROOT)
        module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        found[module] = (name.as_posix(), ast.parse(path.read_text(encoding="utf-8")))
    return found


def executed(tree):
    """The nodes of a tree without what stands under ``if TYPE_CHECKING``, which only names types for annotations."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        of_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        waiting += node.orelse if of_types else ast.iter_child_nodes(node)


def imports(tree, modules):
    """Every module that a tree imports anywhere, ours by their full name; and those that its tables name."""
    found = set()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & modules) | ({node.module} if full - modules else set())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = TARGET.fullmatch(node.value)
            found |= {match[1]} & modules if match else set()
    return found


def room(module):
    """The room of src/ that a module is in; all of clip/ is one."""
    package, _, rest = module.partition(".")
    return f"src.{rest.partition('.')[0]}" if package == "src" and rest else package


def floor(module):
    """The number of a module's floor in its room, 0 on top; a folder inside a room is on one floor."""
    floors = FLOORS.get(room(module), (("*",),))
    named = [number for number, names in enumerate(floors) if module in names]
    named += [number for number, names in enumerate(floors) if module.rpartition(".")[0] in set(names) - {room(module)}]
    return named[0] if named else next(number for number, names in enumerate(floors) if "*" in names)


def may_import(module, target):
    """Whether an arrow points down: to a lower room, or to the same or a lower floor within it."""
    high, low = ROOMS.index(room(module)), ROOMS.index(room(target))
    return low > high or low == high and floor(target) >= floor(module)


def arrows():
    modules = set(sources())
    return {module: imports(tree, modules) & modules for module, (_, tree) in sources().items()}


def test_arrows_point_down():
    wrong = [f"{module} imports {target}" for module, targets in arrows().items() for target in targets
             if target != module and not may_import(module, target)]
    assert not wrong


@pytest.mark.parametrize(("module", "target"), [
    ("src.models.finetune", "src.args"), ("src.datasets.folder", "src.models.helpers"), ("clip.loader", "src.errors"),
    ("src.models.helpers", "src.models.training"), ("src.templates.toy", "src.datasets.toy"),
    ("src.args", "src.run.build"), ("src.models.a_new_method", "src.cli.checks"), ("src.run.build", "src.run.task"),
    ("src.machine.device", "src.models.training"), ("src.run.sequence", "src.run.plan.work")])
def test_an_arrow_up_is_seen(module, target):
    assert not may_import(module, target)


def test_imports_are_found_wherever_they_stand():
    tree = ast.parse("import os\ndef f():\n    from src import args\n    from src.models.hooks import Hooks\n"
                     "T = 'src.models.finetune:Finetune'\nif TYPE_CHECKING:\n    import torch\nelse:\n    import re\n")
    assert imports(tree, set(sources())) == {"os", "re", "src.args", "src.models.hooks", "src.models.finetune"}


def circles(graph):
    """The modules or folders that lie on a circle of arrows, or lead to one."""
    done = set()
    while free := {name for name, targets in graph.items() if name not in done and targets <= done}:
        done |= free
    return sorted(set(graph) - done)


def test_no_circles():
    """Neither files nor folders import each other in a circle, and no file is exempt."""
    assert not circles({module: targets - {module} for module, targets in arrows().items()})
    folders = {}
    for module, targets in arrows().items():
        folders.setdefault(room(module), set()).update(room(target) for target in targets)
    assert not circles({folder: targets - {folder} for folder, targets in folders.items()})


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_each_room_is_known_and_the_landing_is_small():
    folders = [file.parent for file in ROOT.glob("src/*/__init__.py")]
    landing = {path.stem for path in [*ROOT.glob("src/*.py"), *folders]}
    assert {f"src.{name}" for name in landing - {"__init__"}} == set(ROOMS) - {"src", "clip"}
    assert len(landing) <= MOST_ROOMS


def test_datasets_know_no_models_and_clip_knows_no_src():
    for module, targets in arrows().items():
        if module.startswith("src.datasets"):
            assert not [target for target in targets if target.startswith("src.models")], module
        if module.split(".")[0] == "clip":
            assert not [target for target in targets if target.startswith("src")], module


def test_templates_import_nothing():
    for module, (_, tree) in sources().items():
        if module.startswith("src.templates"):
            assert not imports(tree, set(sources())), module
            assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)), f"{module} executes something"


def test_the_command_line_stays_above():
    """argparse is imported in src.args only, and nothing below the builders takes a Config or a namespace."""
    for module, (path, tree) in sources().items():
        found = imports(tree, set(sources()))
        assert ("argparse" in found) == (module == "src.args"), module
        if path.startswith(BELOW_THE_COMMAND_LINE):
            names = {argument.arg for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)
                     for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs)}
            # finished_checkpoint stores the plain dict of the configuration under its name in the file.
            stored = {"config"} if module == "src.store.checkpoint" else set()
            assert not names & ({"args", "namespace", "config"} - stored)


READ_A_CONFIG = ("src.cli", "src.args", "src.main", "src.api", "src.run.build")


def reads_of_a_config(tree):
    """Lines in which an attribute of a ``config`` is read, and those that give one a value."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and (
        isinstance(node.value, ast.Name) and node.value.id == "config"
        or isinstance(node.value, ast.Attribute) and node.value.attr in ("config", "_config"))]


def test_the_configuration_is_read_by_the_builders_only():
    """Each part of a run has the frozen settings that it needs."""
    for module, (path, tree) in sources().items():
        if module.startswith("src") and not module.startswith(READ_A_CONFIG):
            assert not reads_of_a_config(tree), path


def test_a_read_of_a_configuration_is_seen():
    tree = ast.parse("config.lr\nself.config.lr\nself._config.values\nother.lr\nconfig['lr']\n")
    assert reads_of_a_config(tree) == [1, 2, 3]


def test_what_the_command_line_says_is_frozen():
    from src import args
    from src.run import settings
    from src.store.settings import Files
    kinds = [kind for kind in vars(settings).values() if dataclasses.is_dataclass(kind)]
    assert Files in kinds and len(kinds) == 8
    assert all(kind.__dataclass_params__.frozen for kind in (*kinds, args.Config))
    config = args.parse([])
    with pytest.raises(TypeError, match="does not support item assignment"):
        config.values["seed"] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.kind = "evaluation"


# -- attributes --------------------------------------------------------------------------------------------------------


def born_later(tree):
    """(class, attribute) of ``self.attribute = ...`` outside ``__init__`` of what ``__init__`` does not set."""
    found = []
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        methods = {node.name: assigned(node) for node in kind.body if isinstance(node, ast.FunctionDef)}
        first = methods.pop("__init__", set()) | {target.id for node in kind.body if isinstance(node, ast.AnnAssign)
                                                  for target in [node.target]}
        found += [(kind.name, name) for names in methods.values() for name in names - first]
    return sorted(found)


def assigned(function):
    return {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"}


def test_no_attribute_of_a_run_is_born_outside_init():
    for module, (path, tree) in sources().items():
        if module.startswith(("src.run", "src.store", "src.args")):
            assert not born_later(tree), path


def test_a_late_attribute_is_seen():
    code = "class A:\n    def __init__(self):\n        self.a = 1\n    def f(self):\n        self.a, self.b = 2, 3\n"
    assert born_later(ast.parse(code)) == [("A", "b")]


def bare_handlers(tree):
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]


def cuda_calls(tree):
    """x.cuda(...) moves something; torch.cuda.is_available() and the like only ask."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"]


def test_no_bare_except_and_no_cuda_call():
    for _, (path, tree) in sources().items():
        assert not bare_handlers(tree), f"{path}: bare except"
        assert not cuda_calls(tree), f"{path}: .cuda()"


def test_these_are_seen_where_they_are():
    tree = ast.parse("try:\n    model.cuda()\nexcept:\n    torch.cuda.is_available()\n")
    assert bare_handlers(tree) == [3] and cuda_calls(tree) == [2]


def test_every_module_says_what_it_is():
    for _, (path, tree) in sources().items():
        assert ast.get_docstring(tree) or not tree.body, path


# -- what starts fast --------------------------------------------------------------------------------------------------


def python(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("code", [
    "import clip, clip.catalog", "import clip_continual; clip_continual.UserError, clip_continual.train.__signature__",
    "import src.args; src.args.parse(['--train-dataset', 'DTD', '--iterations', '1'])",
    "from src import args, cli; import src.cli.checks; cli.checks.check(args.parse(['--dataset-order', 'toy']))",
    "from src.main import main; main(['--iterations', '0'])",
    "from src.main import main; main(['--report', 'nowhere'])",
    "from src.main import main; main(['--reproduce', 'mtil-1-zscl', '--save', 'nowhere', '--dry-run'])",
    "from src.main import main; main(['--study', 'studies/toy.yaml', '--save', 'nowhere', '--status'])",
    "import contextlib; from src.main import main\nwith contextlib.suppress(SystemExit): main(['--help'])",
])
def test_no_torch(code):
    heavy = "[name for name in ('torch', 'torchvision', 'numpy', 'open_clip') if name in sys.modules]"
    done = python("-c", f"{code}\nimport sys; print({heavy})")
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_help_is_instant_and_complete():
    done, instant = is_instant("-m", "src.main", "--help")
    assert done.returncode == 0 and instant
    words = set(re.findall(r"--[A-Za-z][\w-]*", done.stdout))
    assert {flag.name for flag in FLAGS.values()} <= words
    assert "not built" not in done.stdout and "not yet" not in done.stdout


# -- documents that must agree -----------------------------------------------------------------------------------------


def test_the_table_of_datasets_names_all_drawn_tasks():
    assert {name for name in datasets.DATASETS if name.startswith("toy")} == {*toy.TASKS, *toy.REFERENCES, *toy.PAIRS}
    assert {name for name in datasets.DATASETS if name.startswith("mini")} == {*mini.TASKS, mini.REFERENCE}
