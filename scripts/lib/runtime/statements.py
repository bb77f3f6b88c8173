"""A Python file as the statements of its top level: which names each gives, uses and imports, and what else it does."""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

LOOK_UP = {"globals", "exec", "eval"}  # with these a module finds names that cannot be read off it
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Dotted = tuple[str, ...]


@dataclass(eq=False)
class Statement:
    """A statement of a module's top level; of an import, one of its names.

    binds: names that it gives the module.
    imports: what is imported anywhere in it: the name here, what that stands for, what is loaded.
    always: whether it does more than to give names.
    """

    node: ast.stmt
    binds: set[str]
    imports: set[tuple[str, Dotted, Dotted]]
    always: bool

    @cached_property
    def tree(self) -> str:
        """Its syntax tree as text, which a new minor version of Python may write in another way."""
        return ast.dump(self.node)

    @cached_property
    def uses(self) -> set[Dotted]:
        """Names that it uses, each with the attributes taken from it."""
        return set(dotted_names(self.node))

    @cached_property
    def processes(self) -> set[Dotted]:
        """Modules that it runs: what follows "-m" in lists."""
        lists = (node.elts for node in parts_of(self.node) if isinstance(node, ast.List | ast.Tuple))
        pairs = (map(literal, pair) for elements in lists for pair in pairwise(elements))
        return {tuple(name.split(".")) for option, name in pairs if option == "-m" and isinstance(name, str)}

    @cached_property
    def stars(self) -> set[Dotted]:
        """Modules of which it imports every name."""
        return {target[:-1] for _, target, _ in self.imports if target[-1] == "*"}

    def stand_for(self, name: Dotted) -> list[Dotted]:
        """What a name that is imported here stands for."""
        return [target + name[1:] for own, target, _ in self.imports if own == name[0]]


@dataclass
class Module:
    """The statements of a file; `opaque` if it looks names up by itself."""

    statements: list[Statement]
    opaque: bool

    @cached_property
    def binding(self) -> dict[str, list[Statement]]:
        """Statements by the names that they give."""
        names = {name for statement in self.statements for name in statement.binds}
        return {name: [statement for statement in self.statements if name in statement.binds] for name in names}


@cache
def parse(path: str) -> Module:
    """A file as its statements, without docstrings."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [line for line in node.body if not is_text(line)]
    used = {part.id for node in tree.body for part in parts_of(node) if isinstance(part, ast.Name)}
    package = ".".join(Path(path).parent.parts)
    imports = [part for node in tree.body for part in imported(node, package)]
    own = {name for node in tree.body for name in bound(node)}
    own -= {name for name, target, _ in imports if target[0] != "scripts"}
    statements = [statement for node in tree.body for statement in split(node, used, own, package)]
    return Module(statements, bool(used & LOOK_UP) or any("__getattr__" in part.binds for part in statements))


def split(node: ast.stmt, used: set[str], own: set[str], package: str) -> list[Statement]:
    """A statement, or the parts of an import.

    Args:
        used: all names that the module uses; an import of anything else is there for what it does.
        own: names that the module has of this project; as decorators they may note down what they decorate.
        package: of the module, for relative imports.
    """
    if isinstance(node, ast.Import):
        parts = [ast.Import([alias]) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        parts = [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]
    else:
        parts = [node]
    return [Statement(part, bound(part), set(imported(part, package)), acts(part, used, own)) for part in parts]


def imported(node: ast.AST, package: str) -> Iterator[tuple[str, Dotted, Dotted]]:
    """All imports in a statement: the name that each gives, what that stands for, what is loaded."""
    for inner in parts_of(node):
        if isinstance(inner, ast.Import):
            for alias in inner.names:
                loaded = tuple(alias.name.split("."))
                yield (alias.asname, loaded, loaded) if alias.asname else (loaded[0], loaded[:1], loaded)
        elif isinstance(inner, ast.ImportFrom):
            start = importlib.util.resolve_name("." * inner.level + (inner.module or ""), package).split(".")
            for alias in inner.names:
                target = (*start, alias.name)
                yield alias.asname or alias.name, target, target


def bound(node: ast.stmt) -> set[str]:
    """Names that a statement gives its module when it is imported."""
    if is_main(node):
        return set()
    if isinstance(node, DEFINITION):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    names = set()
    for inner in (inner for tree in targets(node) or [node] for inner in parts_of(tree)):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            names.add(inner.id)
        elif isinstance(inner, ast.stmt) and inner is not node:
            names |= bound(inner)
    return names


def acts(node: ast.stmt, used: set[str], own: set[str]) -> bool:
    """Whether a statement does more, when its module is imported, than to give names: see `split`."""
    if is_main(node) or isinstance(node, ast.Pass):
        return False
    if isinstance(node, ast.Import | ast.ImportFrom):
        return not bound(node) & used
    if isinstance(node, DEFINITION):
        return bool({name[0] for decorator in node.decorator_list for name in dotted_names(decorator)} & own)
    if isinstance(node, ast.If | ast.Try):
        return any(acts(inner, used, own) for inner in inner_statements(node))
    parts = (inner for target in targets(node) for inner in parts_of(target))
    return not targets(node) or any(isinstance(inner, ast.Attribute | ast.Subscript) for inner in parts)


def inner_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements directly in a block, of all its branches."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.stmt):
            yield inner
        elif isinstance(inner, ast.ExceptHandler):
            yield from inner_statements(inner)


def targets(node: ast.stmt) -> list[ast.expr]:
    """What an assignment assigns to; nothing for other statements."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def dotted_names(node: ast.AST) -> Iterator[Dotted]:
    """Names in a tree, each with the attributes taken from it: `a.b.c` is one."""
    attributes, inner = [], node
    while isinstance(inner, ast.Attribute):
        attributes.insert(0, inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *attributes)
    else:
        for part in ast.iter_child_nodes(node):
            yield from dotted_names(part)


@cache
def parts_of(node: ast.AST) -> tuple[ast.AST, ...]:
    """A tree's nodes, itself the first."""
    return tuple(ast.walk(node))


def literal(node: ast.expr) -> object:
    """The value of a literal, or None."""
    return node.value if isinstance(node, ast.Constant) else None


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is nothing but a text, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(literal(node.value), str)


def is_main(node: ast.stmt) -> bool:
    """Whether a statement is what a module does as a program only."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
