"""Your own code in a file: ``my.py`` of ``--method my.py:EWC`` and of ``--train-dataset my.py:open_mine``."""

import ast
import contextlib
import functools
import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

OURS = ("src", "clip")
PREFIX = __name__.partition("src")[0]  # "" in a checkout, the name of the package where it is installed


@contextlib.contextmanager
def held(store, entries):
    """Add ``entries`` to a dict inside the context; used for objects passed in from Python, by name."""
    before = dict(store)
    store.update(entries)
    try:
        yield
    finally:
        store.clear()
        store.update(before)


def load_file(path):
    """Execute a file and return its module, once as long as the file does not change. Its imports of
    ``src`` and ``clip`` resolve to this very code, under whatever name it is installed."""
    found = os.stat(path)
    return _load(os.path.realpath(path), PREFIX, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _load(path, *version):
    name = f"own_method_{Path(path).stem}"
    loader = _InstalledNames(name, str(path)) if PREFIX else None
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _InstalledNames(SourceFileLoader):
    """Compile a file with the names in OURS prefixed by PREFIX."""

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.fix_missing_locations(_Prefixed().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def path_stats(self, path):
        raise OSError("no bytecode is kept beside the file: a checkout would load it with the wrong names")


class _Prefixed(ast.NodeTransformer):
    def visit_ImportFrom(self, node):
        if not node.level and node.module.split(".")[0] in OURS:
            node.module = PREFIX + node.module
        return node

    def visit_Import(self, node):
        return [ast.copy_location(statement, node) for alias in node.names for statement in self._import(alias)]

    def _import(self, alias):
        """Rewrite one import: ``import src.x`` binds ``src``; ``import src.x as y`` binds the module itself."""
        root = alias.name.split(".")[0]
        if root not in OURS:
            return [ast.Import([alias])]
        whole = PREFIX + alias.name
        if alias.asname or alias.name == root:
            return [ast.Import([ast.alias(whole, alias.asname or root)])]
        return [ast.Import([ast.alias(whole)]), ast.Import([ast.alias(PREFIX + root, root)])]
