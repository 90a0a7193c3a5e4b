"""kind: Report: which report is made when, and who gets it."""
from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints

from farthing.policy.kinds.budget import known_zone
from farthing.policy.record import Name, Named, as_list

SectionName = Literal[
    "headline", "over-time", "models", "teams", "drivers", "waste", "caches", "unknown", "reconciliation", "method"
]
SECTIONS: tuple[str, ...] = get_args(SectionName)


class Report(Named):
    """The cost report of each whole day, week or month, made once that has ended."""

    KIND: ClassVar[str] = "Report"
    PLURAL: ClassVar[str] = "reports"

    every: Literal["day", "week", "month"] = "week"  # the stretch it is about; a week begins on Monday
    at: Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "06:00"  # from then on it is sent
    tz: Annotated[str, BeforeValidator(known_zone)] = "UTC"  # IANA zone of `at` and of the stretch
    sections: Annotated[tuple[SectionName, ...], BeforeValidator(as_list), Field(max_length=len(SECTIONS))] = ()  # all
    format: Literal["html", "markdown"] = "html"  # of the file that an e-mail carries
    to: Annotated[tuple[Name, ...], Field(min_length=1, max_length=20)]  # names of alert_channels in the settings
