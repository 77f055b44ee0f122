#!/usr/bin/env python3
"""How the project's modules import each other, and the figures that say how easily a newcomer finds a file.

    python tests/support/structure.py       or: make measure

Depth is the longest chain of imports when a module is loaded: what a function imports, or ``TYPE_CHECKING``, is not in
it. Everything else counts each import, wherever it stands.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {"embedmill": REPOSITORY / "producer", "embedmill_worker": REPOSITORY / "worker"}

#: Folders whose modules are found by themselves, so that a new one is a file and its test: nobody has to import them.
FOUND = ("embedmill.reindexing.sinks", "embedmill.reindexing.sources.formats", "embedmill_worker.cli.commands")


@dataclass(frozen=True)
class Structure:
    """The modules of both packages by name, and where they lie."""

    modules: dict[str, Path]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The project's modules that each module names, wherever in its file."""
        return {name: self._named(name, ast.walk(tree)) for name, tree in self._trees.items()}

    @cached_property
    def loads(self) -> dict[str, set[str]]:
        """Those that are loaded with a module."""
        return {name: self._named(name, _when_loaded(tree)) for name, tree in self._trees.items()}

    def check_circles(self) -> None:
        """Raise ``graphlib.CycleError`` if modules import each other in a circle."""
        TopologicalSorter(self.imports).prepare()

    def longest_chain(self, start: str = "") -> list[str]:
        """Return the longest chain of modules of which each loads the next; from one module on, if it is named."""

        @cache
        def chain(name: str) -> tuple[str, ...]:
            return (name, *max((chain(each) for each in self.loads[name]), key=len, default=()))

        return list(max((chain(name) for name in ([start] if start else sorted(self.modules))), key=len))

    def fullest_folder(self) -> tuple[str, int]:
        """Return the folder with the most modules, and their number."""
        ((folder, count),) = Counter(path.parent for path in self.modules.values()).most_common(1)
        return str(folder.relative_to(REPOSITORY)), count

    def little_used(self) -> list[str]:
        """Return the files that at most one other imports; a package's file that holds only words is none."""
        importers = Counter(each for used in self.imports.values() for each in used)
        return sorted(name for name in self.files if importers[name] <= 1)

    def found(self) -> list[str]:
        """Return the files that nobody imports as they are found by themselves."""
        imported = set().union(*self.imports.values())
        return [name for name in self.files if name.rpartition(".")[0] in FOUND and name not in imported]

    @cached_property
    def files(self) -> list[str]:
        """The modules with code in them."""
        return sorted(name for name, tree in self._trees.items() if len(tree.body) > 1)

    def lines(self) -> dict[str, int]:
        """Return the lines of Python and Lua of each package."""
        return {
            name: sum(
                len(path.read_text("utf-8").splitlines())
                for path in (root / name).rglob("*")
                if path.suffix in (".py", ".lua")
            )
            for name, root in PACKAGES.items()
        }

    @cached_property
    def _trees(self) -> dict[str, ast.Module]:
        return {name: ast.parse(path.read_text("utf-8")) for name, path in self.modules.items()}

    def _named(self, name: str, nodes: Iterator[ast.AST]) -> set[str]:
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} imports by a relative name"
                base = node.module or ""
                each = {f"{base}.{alias.name}" for alias in node.names}
                found |= {one if one in self.modules else base for one in each}
        return (found & set(self.modules)) - {name}


def read() -> Structure:
    """Find every module of both packages."""
    found = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return Structure(found)


def _when_loaded(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _when_loaded(child)


def entered() -> list[str]:
    """Return the folders of ``producer/embedmill`` that one blocking ``embed`` enters, on a throw-away server."""
    from embedmill import EmbeddingClient, ResultTimeoutError
    from embedmill_worker.cli.local.server import EmbeddedValkey

    root = PACKAGES["embedmill"] / "embedmill"
    files: set[Path] = set()

    def note(frame, event, _argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root) and not frame.f_code.co_name.startswith("<"):
            files.add(path.relative_to(root))

    with EmbeddedValkey(persistent=False) as server, EmbeddingClient(server.url, "any") as client:
        sys.setprofile(note)
        try:
            client.embed(["Selamat pagi", "good morning"], timeout_s=0.3)
        except ResultTimeoutError:  # nobody serves it: the way there is the same
            pass
        finally:
            sys.setprofile(None)
    return sorted({str(path.parent) for path in files})


def main() -> None:
    """Print the figures."""
    found = read()
    found.check_circles()
    chain = found.longest_chain()
    folder, count = found.fullest_folder()
    little, sizes, lines = found.little_used(), sorted(_sizes(found)), found.lines()
    print(f"files                            {len(found.files)}, median {median(sizes):.0f} lines, most {sizes[-1]}")
    each = ", ".join(f"{name} {count:,}" for name, count in lines.items())
    print(f"lines of Python and Lua          {sum(lines.values()):,} ({each})")
    print("circles of imports               none")
    print(f"longest chain of imports         {len(chain)}: {' → '.join(chain)}")
    print(f"fullest folder                   {count} modules in {folder}")
    files, alone = len(found.files), set(little) - set(found.found())
    print(f"files with at most one importer  {len(little)}, {100 * len(little) / files:.0f} %")
    rest = files - len(found.found())
    print(f"  without those that are found   {len(alone)} of {rest}, {100 * len(alone) / rest:.0f} %")
    print(f"folders that one embed enters    {', '.join(entered())}")


def _sizes(found: Structure) -> list[int]:
    return [len(found.modules[name].read_text("utf-8").splitlines()) for name in found.files]


if __name__ == "__main__":
    main()
