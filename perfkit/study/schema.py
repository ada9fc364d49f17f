"""The published JSON schema of study files, made from their tables: editors and CI read it.

    python -m perfkit.study.schema > analysis/study.schema.json

It knows every key, type and allowed word. What it cannot say (a model that is not here, a batch
smaller than its microbatches, a kind of study that varies nothing) `perfkit validate` says.
"""

import json
import sys
from typing import Any

from perfkit.study.tables import StudyFile

NAME = "study.schema.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def study_schema() -> dict[str, Any]:
    """The schema as a document; a key that may be left out is not null, as TOML has no null."""
    found: dict[str, Any] = _without_null(StudyFile.model_json_schema())
    options = found["$defs"]["RunTable"]["properties"]
    for key, axis in found["$defs"]["AxesTable"]["properties"].items():
        told = options[key]["description"]
        axis.update(description=told, minItems=1, uniqueItems=True)
    return {"$schema": DRAFT, **found, "title": "perfkit study"}


def schema_text() -> str:
    return json.dumps(study_schema(), indent=2) + "\n"


def _without_null(node: Any) -> Any:
    """`X or null, null when absent` as X; pydantic's titles say only the key again."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: _without_null(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and not value)
    }
    choices = [choice for choice in found.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del found["anyOf"]
        return {**choices[0], **found}
    return found


if __name__ == "__main__":
    sys.stdout.write(schema_text())
