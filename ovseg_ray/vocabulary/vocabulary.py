"""Ordered labels with synonyms and prompt templates: what a model is asked to find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg_ray.config import read_yaml
from ovseg_ray.errors import UserError, did_you_mean
from ovseg_ray.vocabulary.templates import BARE, template_set

LABEL_KEYS = ("name", "synonyms", "background")
MAX_LABELS = 100_000
MAX_LABEL_CHARACTERS = 1_000
SETS = Path(__file__).parent / "sets"


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Attributes:
        name: what it is called in results.
        synonyms: what is asked of the text tower; the mean of their embeddings stands for the label.
        background: whether it means "anything else".
    """

    name: str
    synonyms: tuple[str, ...]
    background: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """An ordered set of labels and the templates they are asked with.

    Attributes:
        labels: at least one, with distinct names.
        templates: prompts with one `{}` each; embeddings are averaged over them.
        name: for tables and results.
    """

    labels: tuple[Label, ...]
    templates: tuple[str, ...] = BARE
    name: str = "labels"

    def __post_init__(self) -> None:
        if not any(label.name.strip() for label in self.labels):
            raise UserError(f"vocabulary '{self.name}': no labels; give at least one, such as \"sky, grass\"")
        if len(self.labels) > MAX_LABELS:
            raise UserError(f"vocabulary '{self.name}': {len(self.labels)} labels, at most {MAX_LABELS} are allowed")
        seen: set[str] = set()
        for label in self.labels:
            if label.name.strip() and not all(text.strip() for text in label.synonyms):
                raise UserError(f"vocabulary '{self.name}': label '{label.name}' has an empty synonym; remove it")
            if not label.name.strip() or not label.synonyms:
                raise UserError(f"vocabulary '{self.name}': label '{label.name}' is empty; remove it or name it")
            if max(map(len, (label.name, *label.synonyms))) > MAX_LABEL_CHARACTERS:
                raise UserError(f"vocabulary '{self.name}': label '{label.name[:40]}…' is too long; shorten it")
            if label.name in seen:
                raise UserError(f"vocabulary '{self.name}': label '{label.name}' stands twice; remove one of them")
            seen.add(label.name)
        for template in self.templates:
            if template.count("{}") != 1:
                raise UserError(f"vocabulary '{self.name}': template '{template}' must hold {{}} once")

    @classmethod
    def of(cls, names: Iterable[str], templates: Sequence[str] = BARE, name: str = "labels") -> Vocabulary:
        """A vocabulary of bare names."""
        return cls(tuple(Label(n.strip(), (n.strip(),)) for n in names), tuple(templates), name)

    @classmethod
    def parse(cls, text: str, templates: Sequence[str] = BARE) -> Vocabulary:
        """A vocabulary from "sky, grass, a red car"; "car|automobile" gives synonyms.

        Raises:
            UserError: an empty or repeated label, or labels separated by something else.
        """
        if ";" in text:
            raise UserError(f"labels '{text}': separate labels by commas, not by ';'")
        labels = []
        for part in text.split(","):
            synonyms = tuple(piece.strip() for piece in part.split("|"))
            labels.append(Label(synonyms[0], synonyms))
        return cls(tuple(labels), tuple(templates))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Vocabulary:
        """Read `{name, templates, labels: [name | {name: [synonyms]} | {name, synonyms, background}]}`.

        Args:
            path: a file, or the name of a shipped label set such as "coco-80". `templates` in it is a list of
                prompts or the name of a published set, such as `vild14`.

        Raises:
            UserError: names the file and what is wrong in it.
        """
        path = _find(path)
        return cls.from_mapping(read_yaml(path), str(path))

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any], source: str) -> Vocabulary:
        """As `from_yaml`, from the parsed mapping; `source` is what errors call it."""
        unknown = set(value) - {"name", "templates", "labels"}
        if unknown or not isinstance(value.get("labels"), list):
            wrong = f"unknown key '{min(unknown)}'" if unknown else "'labels' must be a list"
            raise UserError(f"{source}: {wrong}; a vocabulary has name, templates and labels")
        labels = tuple(_label(entry, source) for entry in value["labels"])
        templates = value.get("templates") or BARE
        if isinstance(templates, str):
            templates = template_set(templates)
        if not isinstance(templates, Sequence) or not all(isinstance(text, str) for text in templates):
            raise UserError(f"{source}: 'templates' must be a list of prompts or the name of a set, such as vild14")
        return cls(labels, tuple(templates), str(value.get("name") or Path(source).stem))

    def to_mapping(self) -> dict[str, Any]:
        """The form that `from_mapping` reads."""
        labels = [
            {"name": label.name, "synonyms": list(label.synonyms), "background": label.background}
            for label in self.labels
        ]
        return {"name": self.name, "templates": list(self.templates), "labels": labels}

    @property
    def names(self) -> tuple[str, ...]:
        """Label names in index order."""
        return tuple(label.name for label in self.labels)

    @property
    def fingerprint(self) -> str:
        """Content hash of labels, synonyms and templates (not of the vocabulary's own name)."""
        content = {key: value for key, value in self.to_mapping().items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, name: str) -> int:
        """Position of a label.

        Raises:
            UserError: no such label.
        """
        try:
            return self.names.index(name)
        except ValueError as error:
            raise UserError(
                f"vocabulary '{self.name}': no label '{name}'; it has {', '.join(self.names[:8])}…"
            ) from error

    def subset(self, names: Iterable[str], name: str | None = None) -> Vocabulary:
        """The labels of the given names, in this vocabulary's order."""
        wanted = set(names)
        kept = tuple(label for label in self.labels if label.name in wanted)
        return Vocabulary(kept, self.templates, name or self.name)

    def with_templates(self, templates: Sequence[str]) -> Vocabulary:
        """The same labels asked with other prompts."""
        return Vocabulary(self.labels, tuple(templates), self.name)


def shipped_sets() -> dict[str, Path]:
    """Label sets that come with the package, by name."""
    return {path.stem: path for path in sorted(SETS.glob("*.yaml"))}


def _find(path: str | Path) -> Path:
    if Path(path).exists():
        return Path(path)
    sets = shipped_sets()
    name = str(path)
    if name in sets:
        return sets[name]
    hint = did_you_mean(name, sets, f"shipped sets: {', '.join(sets)}")
    raise UserError(f"{name}: no such vocabulary file or shipped set; {hint}")


def _label(entry: Any, source: str) -> Label:
    if isinstance(entry, str):
        return Label(entry.strip(), (entry.strip(),))
    if isinstance(entry, dict) and "name" in entry and set(entry) <= set(LABEL_KEYS):
        name = str(entry["name"])
        synonyms = entry.get("synonyms") or [name]
        return Label(name, tuple(map(str, synonyms)), bool(entry.get("background", False)))
    if isinstance(entry, dict) and len(entry) == 1:
        name, synonyms = next(iter(entry.items()))
        if isinstance(synonyms, str):
            synonyms = [synonyms]
        if isinstance(synonyms, list) and synonyms:
            return Label(str(name), tuple(map(str, synonyms)))
    if isinstance(entry, dict) and "name" in entry:
        unknown = next(str(key) for key in entry if key not in LABEL_KEYS)
        raise UserError(f"{source}: label '{entry['name']}': unknown key '{unknown}'; it has {', '.join(LABEL_KEYS)}")
    if isinstance(entry, bool | int | float):  # YAML reads yes, no, on and off as truth values
        raise UserError(f"{source}: label {entry!r} is no text; put the name in quotes")
    raise UserError(f"{source}: label {entry!r} must be a name, 'name: [synonyms]' or a mapping with name")
