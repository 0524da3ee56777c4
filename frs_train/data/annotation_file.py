"""Reading a COCO annotation file: the types of its records, and the message about a wrong one.

A number may be written as text or as 640.0, a flag as 0, "0" or false, and an optional field may be null; all
are read as what they mean. True and false are not numbers. Unused fields, polygons above all, are skipped.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import unicodedata
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import NotRequired, TypedDict

from frs_train.errors import UserError
from frs_train.text import shortened

LONGEST_SIDE = 1_000_000  # pixels


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError
    return value


def _number(kind: type, **limits: Any) -> Any:
    """A JSON number, which is checked in compiled code; otherwise what pydantic reads as one, except
    booleans."""
    plain, limit = Annotated[kind, Strict()], Field(**limits)
    return Annotated[
        Annotated[plain, limit] | Annotated[kind, limit, BeforeValidator(_no_bool)],
        Field(union_mode="left_to_right"),
    ]


Id = Annotated[_number(int, ge=-(2**63), lt=2**63), Field(description="a whole number of 64 bits")]
Side = Annotated[
    _number(int, ge=1, le=LONGEST_SIDE), Field(description=f"a whole number of pixels, 1 to {LONGEST_SIDE}")
]
Coordinate = _number(float)
Box = Annotated[
    tuple[Coordinate, Coordinate, Coordinate, Coordinate],
    Field(description="four numbers: x, y, width, height"),
]
Area = Annotated[
    _number(float, ge=0, allow_inf_nan=False) | None,
    Field(description="a number of pixels, 0 or more; null or 0 stands for the box's"),
]
Flag = Annotated[bool | None, Field(description="0 or 1")]
Text = Annotated[
    str,
    Field(
        description="text of at least one character, none of them NUL",
        pattern=r"^[^\x00]+$",
        coerce_numbers_to_str=True,
    ),
]
Name = Annotated[Text, AfterValidator(lambda text: unicodedata.normalize("NFC", text))]


class ImageRecord(TypedDict):
    id: Id
    file_name: Text
    width: Side
    height: Side


class AnnotationRecord(TypedDict):
    id: NotRequired[Any]  # only used in messages, so anything is allowed
    image_id: Id
    category_id: Id
    bbox: Box
    area: NotRequired[Area]
    iscrowd: NotRequired[Flag]
    ignore: NotRequired[Flag]


class CategoryRecord(TypedDict):
    id: Id
    name: Name


class Content(TypedDict):
    """The part of a file that is kept. Reading stops at the first wrong record."""

    images: Annotated[list[ImageRecord], FailFast()]
    annotations: Annotated[list[AnnotationRecord], FailFast()]
    categories: Annotated[list[CategoryRecord], FailFast()]


RECORDS = {
    "images": ("image", ImageRecord),
    "annotations": ("annotation", AnnotationRecord),
    "categories": ("category", CategoryRecord),
}
READER = TypeAdapter(Content)


def read_content(path: Path) -> Content:
    """The records of a file, every field of its type. Raises `UserError` naming the first that is wrong."""
    data = _text(path)
    try:
        content = READER.validate_json(data)
        _release_free_memory()
        return content
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
    if error["type"] == "json_invalid":
        raise UserError(
            f"Annotation file {path} is not valid JSON: {error['ctx']['error']}. It may be cut off; write or "  # pyright: ignore[reportTypedDictNotRequiredAccess]  # of this type, it has one
            "download it again."
        )
    raise UserError(f"{path}{_complaint(error['loc'], from_json(data))}")


def _text(path: Path) -> bytes:
    """The bytes of the file, checked to be UTF-8, without a byte order mark."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"Annotation file {path} does not exist. Give the path of a COCO-format JSON file."
        ) from None
    except OSError as error:
        raise UserError(f"Annotation file {path} cannot be read: {error.strerror}.") from None
    data = data.removeprefix(codecs.BOM_UTF8)
    encoding = json.detect_encoding(data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            encoding = f"neither UTF-8 (byte {data[error.start]:#x} at {error.start}) nor UTF-16"
    if encoding != "utf-8":
        raise UserError(
            f"Annotation file {path} is in another encoding: {encoding}. JSON is UTF-8: save it as that."
        )
    return data


def _release_free_memory() -> None:
    """Returns free memory to the system. glibc keeps memory that was freed in small pieces, and a parsed file
    is many small pieces: two gigabytes for COCO's polygons."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _complaint(place: tuple, content: Any) -> str:
    """The message about a place in a file's content: (list, position, field), or a prefix of that."""
    kind, position, field = (*place[:3], None, None, None)[:3]
    if kind is None:
        return f" holds a JSON {type(content).__name__}, not a COCO object."
    if position is None:
        return f' has no list "{kind}". It must be a COCO detection file: images, annotations and categories.'
    noun, fields = RECORDS[kind]
    record = content[kind][position]
    if field is None:
        return f": {noun} {position} is {_shown(record)}, not an object."
    name = f": {noun} {position} (id {_shown(record.get('id'))})"
    expected = TypeAdapter(fields).json_schema()["properties"][field]["description"]
    actual = f'has "{field}": {_shown(record[field])}' if field in record else f'has no "{field}"'
    return f"{name} {actual}. It must be {expected}. Correct the record."


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=True))
