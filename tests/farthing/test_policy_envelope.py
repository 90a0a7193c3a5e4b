"""farthing/policy/envelope.py and kinds/: one table of kinds, and the schema that editors read."""
from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from farthing.policy import KINDS, Budget, Document, Named
from farthing.policy.envelope import json_schema


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=lambda kind: kind.KIND)
def test_every_kind_has_its_field_of_the_document(kind: type[Named]) -> None:
    assert Document.model_fields[kind.PLURAL].annotation == tuple[kind, ...]


def test_the_schema_names_fields_as_people_write_them_and_refuses_others() -> None:
    schema = json_schema()
    assert schema["properties"]["kind"]["enum"] == sorted(KINDS)
    budget = schema["$defs"]["BudgetDocument"]
    assert "limit" in budget["properties"] and "limit_nusd" not in budget["properties"]
    assert budget["required"] == ["apiVersion", "kind", "metadata", "limit"]
    assert budget["additionalProperties"] is False and "name" not in budget["properties"]
    assert set(budget["properties"]["metadata"]["properties"]) == {"name", "owner"}


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    text = json.dumps(json_schema())
    wanted = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert wanted and wanted <= set(json_schema()["$defs"])


def test_money_is_written_with_its_currency_and_travels_as_an_integer() -> None:
    assert Budget.from_written({"name": "a", "limit": "0.02 USD"}).limit_nusd == 20_000_000
    for spec in ({"limit": 5}, {"limit_nusd": 5}, {"limit_nusd": "5 USD"}):
        with pytest.raises(ValidationError):
            Budget.from_written({"name": "a", **spec})
    document = Document(version=1, budgets=(Budget(name="a", limit_nusd=5),))
    assert Document.from_json(document.to_json()) == document
