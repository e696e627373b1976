"""docs/settings.md, made from the settings themselves: ``make docs``."""

from collections.abc import Iterator
from typing import Any

from services import settings
from services.settings import Settings

PLACES = {"data_dir": "~/.local/share/headrace", "cache_dir": "~/.cache/headrace"}
TITLE = """\
# Settings

Every process reads these from the environment once, at its start; there is no other configuration.
Made by `make docs` from `services/settings.py`; do not edit.
"""


def document() -> str:
    """The Markdown page: one table for every process, then one for each kind of process."""
    parts = [TITLE]
    for kind in kinds():
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        parts.append(f"\n## {kind.__name__}: {summary}\n")
        parts.append("\n| variable | default | |\n|---|---|---|\n")
        parts.extend(_rows(kind))
    return "".join(parts)


def kinds() -> list[type[Settings]]:
    """`Settings` and its kinds, in the order of services/settings.py."""
    defined = [kind for kind in vars(settings).values() if isinstance(kind, type)]
    return [kind for kind in defined if issubclass(kind, Settings)]


def _rows(kind: type[Settings]) -> Iterator[str]:
    # The JSON schema rather than the fields: there bounds and choices have plain names.
    for name, field in kind.model_json_schema()["properties"].items():
        if kind is Settings or name not in Settings.model_fields:
            default, text = _default(name, field), _description(field)
            yield f"| `HEADRACE_{name.upper()}` | {default} | {text} |\n"


def _default(name: str, field: dict[str, Any]) -> str:
    # platformdirs asks the machine; the page is the same everywhere.
    default = PLACES.get(name, field.get("default"))
    return "" if default in (None, "") else f"`{default}`"


def _description(field: dict[str, Any]) -> str:
    rules = [
        f"{words} {field[rule]}"
        for rule, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("minLength", "characters from"),
            ("maxLength", "characters to"),
        )
        if rule in field
    ]
    if "enum" in field:
        rules.append(" | ".join(field["enum"]))
    described = [field["description"]] if "description" in field else []
    limits = [f"({', '.join(rules)})"] if rules else []
    return " ".join(described + limits).replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
