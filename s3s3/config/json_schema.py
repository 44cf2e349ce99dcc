"""The JSON Schema of the configuration file, for editors: completion, documentation and checks while typing."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from .kinds import Table, keys_of, kind_of, named_in
from .reader import FILE_SUFFIX
from .tables import Bucket, File, all_tables
from .value_types import toml_default

#: The environment variable that supplies a value.
_VARIABLE = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"}


class _Generator(GenerateJsonSchema):
    # Defaults that are not TOML; `_complete` adds them.
    ignored_warning_kinds = {"non-serializable-default"}  # noqa: RUF012


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12). It describes the file; `s3s3 config validate` checks what goes together."""
    schema = File.model_json_schema(schema_generator=_Generator)
    for table in dict.fromkeys(all_tables().values()):
        _complete(schema["$defs"][table.__name__], table)
    _complete(schema, File)
    schema["$defs"]["Variable"] = _VARIABLE
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "s3s3.toml"}


def _complete(schema: dict[str, Any], table: type[Table]) -> None:
    """Describe a table as the file has it: without null, with NAME_file and "${NAME}", and with free names."""
    properties, required = schema["properties"], set(schema.pop("required", ()))
    for name, field in table.model_fields.items():
        marker = named_in(field)
        properties[name] = shown = _without_null(properties[name])
        if marker:
            del properties[name]
            required.discard(name)
            inner = shown.get("patternProperties") or {"": shown["additionalProperties"]}
            if marker.prefix:
                properties[marker.example[0]] = next(iter(inner.values()))
                schema["patternProperties"] = {f"^{marker.prefix}[A-Za-z0-9_.-]*$": next(iter(inner.values()))}
            else:
                schema["additionalProperties"] = next(iter(inner.values()))
        elif name in keys_of(table):
            default = None if field.is_required() else field.get_default()
            if kind_of(field).words == "a size" or (default and toml_default(default) is None):
                default = (field.examples or [None])[0]
            properties[name] = _key(shown, toml_default(default))
            if kind_of(field).is_text:
                text = f"The path of a file that contains {name}."
                properties[name + FILE_SUFFIX] = {"type": "string", "description": text}
                if name in required:
                    required.discard(name)
                    others = [name + FILE_SUFFIX, *(["store"] if issubclass(table, Bucket) else [])]
                    schema.setdefault("allOf", []).append({"anyOf": [{"required": [one]} for one in (name, *others)]})
    if required:
        schema["required"] = sorted(required)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without null, which TOML does not have."""
    choices = [{**one} for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    for choice in choices:
        choice.pop("default", None)  # pydantic before 2.10
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
    if rest.get("default", "") in (None, [], {}):
        del rest["default"]
    for reference in rest.pop("allOf", ()):  # pydantic before 2.10
        rest |= reference
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, **({"anyOf": choices} if choices else {})}


def _key(schema: dict[str, Any], default: object) -> dict[str, Any]:
    """Return the schema of a key's value, which "${NAME}" may supply."""
    about: dict[str, Any] = {key: schema[key] for key in ("description", "examples") if key in schema}
    value = {key: item for key, item in schema.items() if key not in (*about, "default")}
    about |= {} if default is None else {"default": default}
    if "string" in value.get("type", ()) and "enum" not in value:
        return {**about, **value}
    return {**about, "anyOf": [*value.get("anyOf", [value]), {"$ref": "#/$defs/Variable"}]}
