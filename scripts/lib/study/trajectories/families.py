"""Families: one trajectory file that describes several trajectories, which differ along axes.

A file without `axes` that derives from a single trajectory is a family of one, which has the file's name.
"""

import copy
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.lib.runtime.config_files import NAME_RULE, ConfigError, is_name, ordered, read_named, validate
from scripts.lib.study.scales import of_trajectory
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.base import Trajectory, has
from scripts.lib.study.trajectories.local import Local
from scripts.lib.study.trajectories.published import Published
from scripts.lib.study.trajectories.trained import Trained

SOURCES = {kind.source: kind for kind in (Trained, Published, Local, Averaged)}
OVER = "over"  # key of a file: the axis whose members become one
# For all members of a file.
FIXED = ("source", OVER, *(kind.origin_key for kind in SOURCES.values() if kind.origin_key))
MOST = 1000  # members of a family: each is a run to train


@dataclass(frozen=True)
class Member:
    """One trajectory of a family.

    place: its value along each axis, as its name has it.
    content: of its file, as if it had one of its own.
    """

    name: str
    place: dict[str, str]
    content: dict


@dataclass(frozen=True)
class Family:
    """What a trajectory file describes.

    name: of the file.
    axes: names of the axes, those of the family that it derives from first.
    paths: the settings that vary along them, as dotted paths.
    members: by name, the last axis varying fastest.
    """

    name: str
    axes: tuple[str, ...]
    paths: frozenset[str]
    members: dict[str, Member]


@dataclass(frozen=True)
class Parent:
    """What a member of a family derives from.

    place: the axes that it takes over, with its values. names: to stand in its file, one or a list; None: as it is.
    """

    place: dict[str, str]
    names: str | list[str] | None


class Families:
    """The families of a folder of trajectory files, each read once.

    folder: config/trajectories.
    scale: the config's section, at which they are read; None for none.
    """

    def __init__(self, folder: Path, scale: dict | None = None):
        self.folder = folder
        self.scale = scale
        self._read: dict[str, Family] = {}
        self._named: set[str] = set()  # files whose members have names of their own

    def named(self, name: str, where: str) -> Family:
        """As `having`; refuses also that any member has the name of another file, or of another family's member."""
        family = self.having(name, where)
        for member in family.members if family.name not in self._named else ():
            files = list(self._describing(member))
            if len(files) > 1:
                described = " and by ".join(str(self.path(file)) for file in files)
                raise ConfigError(f"trajectory `{member}` is described by {described}: rename one of these files")
        self._named.add(family.name)
        return family

    def having(self, name: str, where: str, above: tuple[str, ...] = ()) -> Family:
        """The family that has this name, or a member of this name.

        Args:
            where: what names it, for error messages.
            above: files of what derives from it.

        Raises:
            ConfigError: there is none; or a file does not fit its schema, or what it derives from.
        """
        file = next(self._describing(name, above), None) if is_name(name) else None
        if file is None:
            try:
                read_named(self.folder, "trajectory", name)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
        return self.read(file, above)

    def _describing(self, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """The files that describe a trajectory: its own, then those of families with a member of this name.

        A file that cannot be read has no members beside one that describes it.
        """
        if found := self.path(name).is_file():
            yield name
        for place in reversed([place for place, letter in enumerate(name) if letter == "-"]):
            file = name[:place]
            if file in above or not self.path(file).is_file():
                continue
            try:
                members = self.read(file, above).members
            except ConfigError:
                if not found:
                    raise
                continue
            if name in members:
                found = True
                yield file

    def read(self, file: str, above: tuple[str, ...] = ()) -> Family:
        """The family of a file.

        Raises:
            ConfigError: as of `having`.
        """
        if file in above:
            raise ConfigError(f"{self.path(file)}: the trajectory derives from itself, through {' and '.join(above)}")
        if file not in self._read:
            self._read[file] = self._expand(file, above)
        return self._read[file]

    def path(self, file: str) -> Path:
        return self.folder / f"{file}.yaml"

    def _expand(self, file: str, above: tuple[str, ...]) -> Family:
        path, content = self.path(file), read_named(self.folder, "trajectory", file)
        validate(content, "trajectory", str(path))
        content = of_trajectory(content, self.scale, path)
        kind = SOURCES[content["source"]]
        own = {axis: _values(path, axis, values) for axis, values in content.pop("axes", {}).items()}
        inherited, parents = self._parents(path, kind.origin(content), content.pop(OVER, None), (*above, file))
        axes = (*inherited.axes, *own)
        _check_axes(path, content, own, inherited, kind)
        number = len(parents) * math.prod(map(len, own.values()))
        if number > MOST:
            raise ConfigError(f"{path}: axes: there are {number:,} members; a family has {MOST:,} at most")
        titles, members = _titles(axes), []
        for parent, *texts in itertools.product(parents, *own.values()):
            chosen = dict(zip(own, texts, strict=True))
            place = parent.place | chosen
            name = "-".join([file, *(titles[axis] + text for axis, text in place.items())])
            settings = {key: value for axis in own for key, value in own[axis][chosen[axis]].items()}
            if parent.names:
                settings[kind.origin_key] = parent.names
            members.append(Member(name, place, _content(path, name, content, settings)))
        _check_names(path, [member.name for member in members])
        paths = inherited.paths | {kind.coordinate(key) for key in _paths(own)}
        return Family(file, axes, frozenset(paths), {member.name: member for member in members})

    def _parents(
        self, path: Path, origin: str | list[str] | None, over: str | None, above: tuple[str, ...]
    ) -> "tuple[Family, list[Parent]]":
        """The family whose axes a file takes over, and what each of its own members derives from.

        Args:
            origin: as in the file.
            over: an axis of the family that is `origin`, along which its members are taken together.

        Raises:
            ConfigError: as of `having`; or `over` is no axis of a family, or one of several names is a family.
        """
        alone = Family(path.stem, (), frozenset(), {}), [Parent({}, None)]
        if isinstance(origin, list) or origin is None:
            for name in origin or ():
                if name not in self.having(name, str(path), above).members:
                    raise ConfigError(f"{path}: `{name}` is a family: name members of it, or it alone with `{OVER}`")
            if over is not None:
                raise ConfigError(f"{path}: `{OVER}`: name one family that has the axis `{over}`, or leave it out")
            return alone
        family = self.having(origin, str(path), above)
        axes = family.axes if origin == family.name else ()
        if over is not None and over not in axes:
            known = f"its axes are {', '.join(axes)}" if axes else "it is a single run"
            raise ConfigError(f"{path}: `{OVER}`: `{origin}` has no axis `{over}`; {known}")
        if origin != family.name:
            return alone
        if over is None:
            return family, [Parent(member.place, member.name) for member in family.members.values()]
        groups = {}
        for member in family.members.values():
            place = tuple((axis, text) for axis, text in member.place.items() if axis != over)
            groups.setdefault(place, []).append(member.name)
        kept = tuple(axis for axis in axes if axis != over)
        return Family(origin, kept, family.paths, {}), [Parent(dict(place), names) for place, names in groups.items()]


def _values(path: Path, axis: str, values: list | dict) -> dict[str, dict]:
    """The settings of each value of an axis, by the value as members' names have it."""
    if isinstance(values, dict):
        return {f"-{name}": settings for name, settings in values.items()}
    found = {_text(value): {axis: value} for value in values}
    if len(found) < len(values):
        raise ConfigError(f"{path}: axes.{axis}: a value is given twice in {values}: leave one out")
    return found


def _text(value) -> str:
    """A value as names have it: 2, 0.5, 6e-3; words with a hyphen before them."""
    if isinstance(value, str | bool):
        return f"-{value}" if isinstance(value, str) else f"-{value}".lower()
    if isinstance(value, int):
        return str(value)
    if value and not 0.01 <= abs(value) < 1e6:
        return np.format_float_scientific(value, trim="-", exp_digits=1).replace("+", "")
    return np.format_float_positional(value or 0.0, trim="-")


def _paths(own: dict[str, dict]) -> set[str]:
    """The settings that a file's own axes vary."""
    return {key for values in own.values() for settings in values.values() for key in settings}


def _titles(axes: tuple[str, ...]) -> dict[str, str]:
    """Axes as names have them: the last word of each, or all of it where two have the same."""
    last = {axis: axis.rpartition(".")[2] for axis in axes}
    times = Counter(last.values())
    return {axis: word if times[word] == 1 else axis for axis, word in last.items()}


def _check_axes(path: Path, content: dict, own: dict[str, dict], inherited: Family, kind: type[Trajectory]) -> None:
    for axis in own:
        if axis in inherited.axes:
            raise ConfigError(
                f"{path}: axes.{axis}: its members already differ in it, as those of the family `{inherited.name}` do"
            )
    varied = _paths(own)
    for key in sorted(varied):
        if sum(key in _paths({axis: values}) for axis, values in own.items()) > 1:
            raise ConfigError(f"{path}: axes: `{key}` varies along two of them: leave it to one")
        if any(fixed == key or fixed.startswith(f"{key}.") for fixed in FIXED):
            raise ConfigError(f"{path}: axes: `{key}` cannot vary: write a file for each of its values")
        if not has(content, key):
            raise ConfigError(f"{path}: axes: the file has no `{key}`: mend the axis, or give the key as well")
    for key in sorted(inherited.paths - varied):
        if kind.inherits(key) and has(content, key):
            raise ConfigError(
                f"{path}: `{key}` differs between the members of `{inherited.name}`: leave it out, and each takes its "
                "own; or let it vary along an axis with named values"
            )


def _check_names(path: Path, names: list[str]) -> None:
    for name, times in Counter(names).items():
        if not is_name(name):
            raise ConfigError(f"{path}: axes: `{name}` cannot be the name of a member: {NAME_RULE}")
        if times > 1:
            raise ConfigError(f"{path}: axes: {times} members would have the name `{name}`: rename an axis or a value")


def _content(path: Path, name: str, content: dict, settings: dict) -> dict:
    """The content of a file with these settings, by dotted path, in place of its own."""
    content = copy.deepcopy(content)
    for key, value in settings.items():
        *sections, last = key.split(".")
        part = content
        for section in sections:
            part = part[section]
        part[last] = value
    if settings:
        validate(content, "trajectory", f"{path}, member `{name}`")
    return ordered(content)
