"""What every part of a policy document is made of: frozen records, checked names, and amounts of money.

A field whose name ends in `_nusd` holds integer nano-dollars; people write it without that ending and as text with its
currency (`limit: 5000 USD`), and the document that travels holds the integer.
"""
from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Annotated, Any, ClassVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationInfo, WithJsonSchema

from farthing.money import nusd_from_usd

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
MAX_NUSD = 10**18  # a billion USD; sums of such amounts stay within 64 bits
WRITTEN = "written"  # validation context of what people wrote: an amount then needs its currency

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) USD\Z", re.ASCII)
_AMOUNT_ALLOWED = "allowed: an amount and its currency, such as 5000 USD or 0.02 USD, up to 1000000000 USD"
_AMOUNT_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d{1,9})? USD$", "examples": ["5000 USD", "0.02 USD"]}


def as_list(value: object) -> object:
    """Return a single text as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def as_lists(value: object) -> object:
    """Return a mapping whose values are lists; a single text becomes a list of one."""
    if not isinstance(value, dict):
        return value
    return {name: as_list(entry) for name, entry in cast("dict[object, object]", value).items()}


def as_share(value: object) -> object:
    """Read `80%`; a number is a share already."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", value) if isinstance(value, str) else None
    return float(found[1]) / 100 if found else value


def _nusd(value: object, info: ValidationInfo) -> object:
    """Read `5000 USD`; an integer is nano-dollars already, and nobody writes those."""
    if not isinstance(value, str):
        if info.context == WRITTEN:
            raise ValueError(_AMOUNT_ALLOWED)
        return value
    found = _AMOUNT.match(value)
    amount = nusd_from_usd(found[1]) if found else -1
    if not 0 <= amount <= MAX_NUSD:
        raise ValueError(_AMOUNT_ALLOWED)
    return amount


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 1000}]}
Patterns = Annotated[
    tuple[Pattern, ...], BeforeValidator(as_list), Field(max_length=1000), WithJsonSchema(_ONE_OR_MORE)
]
SomePatterns = Annotated[
    tuple[Pattern, ...], BeforeValidator(as_list), Field(min_length=1, max_length=1000), WithJsonSchema(_ONE_OR_MORE)
]
Nusd = Annotated[int, BeforeValidator(_nusd), Field(ge=0, le=MAX_NUSD), WithJsonSchema(_AMOUNT_SCHEMA)]


def _as_written(field: str) -> str:
    return field.removesuffix("_nusd")


class Record(BaseModel):
    """One frozen part of a document; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_as_written, validate_by_name=True, validate_by_alias=True
    )

    @cached_property
    def canonical(self) -> bytes:
        """It as canonical JSON, UTF-8."""
        dumped = self.model_dump(mode="json")
        return json.dumps(dumped, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Named(Record):
    """One object of a document: what people write under `kind: …`; its file holds all that belongs to its kind."""

    KIND: ClassVar[str]  # as people write it, such as Budget
    PLURAL: ClassVar[str]  # the field of Document that holds it, such as budgets

    name: Name
    owner: str = ""

    @classmethod
    def from_written(cls, spec: dict[str, Any]) -> Any:
        """Read an object as people write it: amounts with their currency, fields by their written names only.

        Raises:
            ValidationError: something in it is wrong.
        """
        return cls.model_validate(spec, context=WRITTEN, by_alias=True, by_name=False)
