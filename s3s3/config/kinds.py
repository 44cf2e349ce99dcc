"""What the models of the tables are made of: kinds of values, the base class, and functions that look at a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from ..model import Secret, Window
from . import value_types
from .value_types import Address


@dataclass(frozen=True)
class Kind:
    """The kind of a value, in the words of messages and of the reference page.

    Attributes:
        is_text: `NAME_file` can supply the value.
        is_secret: messages never show the value.
        is_by_hour: the value may be a table that maps hours of the day to limits.
    """

    words: str
    is_text: bool = False
    is_secret: bool = False
    is_by_hour: bool = False


@dataclass(frozen=True)
class Named:
    """Marks a dict of tables that the file has in the outer table itself, as [dest*].

    Each name begins with `prefix`. `example` is the name, or names, for the template and for messages.
    """

    prefix: str
    example: tuple[str, ...]


class ConflictError(ValueError):
    """A value that does not go with another key of its table.

    `key` is the one to report; `without` is the missing one: the message is dropped if that is misspelled.
    """

    def __init__(self, key: str, message: str, without: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.without = without


_STRING = WithJsonSchema({"type": "string"})
_NUMBER_OR_STRING = WithJsonSchema({"type": ["number", "string"]})
_TABLE_OF_HOURS = {"type": "object", "additionalProperties": {"type": ["number", "string"]}}
_BY_HOUR = WithJsonSchema({"anyOf": [{"type": ["number", "string"]}, _TABLE_OF_HOURS]})
_STRINGS = {"type": "array", "items": {"type": "string"}}

SECRET = Kind("text, a secret", is_text=True, is_secret=True)
FILE_PATH = Kind("the path of a file")
_LIMIT_BYTES = partial(value_types.parse_windows, value_types.parse_limit_bytes)
_LIMIT = partial(value_types.parse_windows, value_types.parse_limit)

# One AfterValidator each: before pydantic 2.12, a field that has a description keeps only the last one.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
TextOrNone = Annotated[str, AfterValidator(value_types.without_control_characters)]
Text = Annotated[str, Field(min_length=1), AfterValidator(value_types.without_control_characters)]
Prefix = Annotated[str, AfterValidator(value_types.parse_prefix)]
Namespace = Annotated[str, Field(min_length=1), AfterValidator(value_types.parse_namespace)]
BucketName = Annotated[str, Field(min_length=1), AfterValidator(value_types.parse_name)]
BucketSuffix = Annotated[str, AfterValidator(value_types.parse_name)]
Host = Annotated[
    str, Field(min_length=1), AfterValidator(value_types.parse_host), Kind("a host name or a URL", is_text=True)
]
HttpUrl = Annotated[
    str, Field(min_length=1), AfterValidator(value_types.parse_http_url), Kind("an HTTP URL", is_text=True)
]
HttpUrlOrNone = Annotated[str, AfterValidator(value_types.parse_http_url), Kind("an HTTP URL", is_text=True)]
FolderUrl = Annotated[
    str, Field(min_length=1), AfterValidator(value_types.parse_folder_url), Kind("a URL", is_text=True)
]
#: The reader makes it absolute and reports a file that cannot be read.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(value_types.without_control_characters), FILE_PATH]
SecretText = Annotated[Secret, PlainValidator(value_types.parse_filled_secret), SECRET, _STRING]
SecretOrNone = Annotated[Secret, PlainValidator(value_types.parse_secret), SECRET, _STRING]
RedisUrl = Annotated[
    Secret,
    PlainValidator(value_types.parse_redis_url),
    Kind("a Redis URL", is_text=True, is_secret=True),
    _STRING,
]
_ADDRESS = Kind("an address", is_text=True)
Bind = Annotated[Address, PlainValidator(value_types.parse_address), _ADDRESS, _STRING]
BindOrNone = Annotated[Address | None, PlainValidator(value_types.parse_optional_address), _ADDRESS, _STRING]
Duration = Annotated[float, BeforeValidator(value_types.parse_duration), Kind("a duration"), _NUMBER_OR_STRING]
Size = Annotated[int, BeforeValidator(value_types.parse_size), Kind("a size"), _NUMBER_OR_STRING]
Globs = Annotated[
    tuple[str, ...], PlainValidator(value_types.parse_globs), Kind("a list of texts"), WithJsonSchema(_STRINGS)
]
Patterns = Annotated[
    tuple[re.Pattern[str], ...],
    PlainValidator(value_types.parse_patterns),
    Kind("a list of patterns"),
    WithJsonSchema(_STRINGS),
]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    PlainValidator(value_types.parse_networks),
    Kind("true, false or a list of networks"),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, _STRINGS]}),
]
BytesByHour = Annotated[
    tuple[Window, ...], PlainValidator(_LIMIT_BYTES), Kind("a size, or a table of hours", is_by_hour=True), _BY_HOUR
]
NumberByHour = Annotated[
    tuple[Window, ...], PlainValidator(_LIMIT), Kind("a number, or a table of hours", is_by_hour=True), _BY_HOUR
]


class Table(BaseModel):
    """Base of all tables. `hints` has advice for unknown keys that people are likely to write."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )

    hints: ClassVar[dict[str, str]] = {}


# -- looking at a model


def bare(annotation: Any) -> Any:
    """Return an annotation without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    others = [argument for argument in get_args(annotation) if argument is not type(None)]
    return bare(others[0]) if len(others) == 1 and type(None) in get_args(annotation) else annotation


def table_in(annotation: Any) -> type[Table] | None:
    """Return the kind of table that a field holds, itself or as the values of a dict; None for a key's value."""
    annotation = bare(annotation)
    if get_origin(annotation) is dict:
        return table_in(get_args(annotation)[1])
    # In Python 3.10, `list[str]` is an instance of `type` as well.
    is_table = get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Table)
    return annotation if is_table else None


@cache
def keys_of(table: type[Table]) -> dict[str, FieldInfo]:
    """Return the keys of a table, without the tables in it."""
    return {name: field for name, field in table.model_fields.items() if table_in(field.annotation) is None}


def tables_of(table: type[Table]) -> Iterator[tuple[tuple[str, ...], FieldInfo, type[Table]]]:
    """Yield the tables in a table: example of the names that lead to it, the field and the kind of table."""
    for name, field in table.model_fields.items():
        inner = table_in(field.annotation)
        if inner is not None:
            marker = named_in(field)
            example = marker.example if marker else (name, *_EXAMPLES.get(name, ()))
            yield example, field, inner


#: Examples of free names, by the table that contains them.
_EXAMPLES = {"stores": ("ceph",), "routes": ("raw",), "keys": ("reader",)}


def named_in(field: FieldInfo) -> Named | None:
    """Return the marker of a dict of tables that the file has in the outer table itself."""
    return next((one for one in field.metadata if isinstance(one, Named)), None)


def kind_of(field: FieldInfo) -> Kind:
    """Return the kind of a key's value."""
    for part in (field, *get_args(field.annotation)):
        metadata = part.metadata if isinstance(part, FieldInfo) else getattr(part, "__metadata__", ())
        for one in metadata:
            if isinstance(one, Kind):
                return one
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(bare(field.annotation))
    return Kind(words) if words else Kind("text", is_text=True)
