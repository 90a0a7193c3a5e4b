"""policies/store.py: versions, what they change, and that nothing half-done is ever in force."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from farthing.errors import DocumentError, LedgerError, SettingsError
from policies.database import open_database, writing
from policies.migrations import MIGRATIONS
from policies.store import Store
from tests.postgres import Postgres


def budget(name: str, limit: str = "5 USD") -> str:
    return f"# about {name}\napiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nlimit: {limit}\n"


def cache(name: str, match: str = "{}") -> str:
    head = f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}}}\n"
    return f"{head}match: {match}\naction: {{cache: {{}}}}\n"


def joined(*documents: str) -> str:
    return "---\n".join(documents)


@pytest.fixture
def engine(control_db: str) -> Iterator[Engine]:
    opened = open_database(control_db)
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


def test_a_new_store_holds_the_empty_document(store: Store) -> None:
    assert (store.current().version, store.current().policies, store.history()) == (0, (), [])


def test_an_apply_adds_changes_and_leaves_the_rest(store: Store) -> None:
    store.apply(joined(budget("a"), budget("b"), cache("c")), "ann", "start")
    document, changes = store.apply(joined(budget("a", "6 USD"), budget("b"), budget("d")), "ann", "more")
    assert [(c.kind, c.name, c.change) for c in changes] == [
        ("Budget", "a", "changed"),
        ("Budget", "b", "unchanged"),
        ("Budget", "d", "added"),
    ]
    assert document.version == 2 and document == store.current()
    assert [b.name for b in document.budgets] == ["a", "b", "d"] and document.policies[0].name == "c"


def test_replace_removes_what_the_text_does_not_name(store: Store) -> None:
    store.apply(joined(budget("a"), cache("c")), "ann", "")
    document, changes = store.apply(budget("b"), "ann", "", replace=True)
    assert [(c.name, c.change) for c in changes] == [("a", "removed"), ("b", "added"), ("c", "removed")]
    assert [b.name for b in document.budgets] == ["b"] and document.policies == ()


def test_an_apply_that_changes_nothing_makes_no_version(store: Store) -> None:
    store.apply(budget("a"), "ann", "")
    document, changes = store.apply(budget("a") + "# only a comment\n", "ann", "")
    assert (document.version, changes[0].change) == (1, "unchanged")
    assert (len(store.history()), len(store.audit())) == (1, 1)


def test_the_text_is_kept_as_it_was_written(store: Store) -> None:
    written = joined(budget("a"), budget("b"))
    store.apply(written, "ann", "")
    store.apply(budget("b", "9 USD"), "bob", "raise")
    assert store.history()[1]["source"] == written
    assert store.sources()["Budget", "a"] == (1, budget("a"))
    assert store.sources()["Budget", "b"] == (2, budget("b", "9 USD"))


def test_a_refused_text_changes_nothing(store: Store) -> None:
    store.apply(budget("a"), "ann", "")
    with pytest.raises(DocumentError):
        store.apply(joined(budget("b"), budget("c", "much")), "ann", "")
    assert [b.name for b in store.current().budgets] == ["a"]


def test_a_conflict_with_a_policy_already_in_force_is_refused(store: Store) -> None:
    store.apply(cache("one", "{team: search}"), "ann", "")
    with pytest.raises(DocumentError, match="Policy one and Policy two: both cache the same requests"):
        store.apply(cache("two", "{team: [search]}"), "ann", "")
    assert store.current().version == 1


def test_a_removal_is_a_version_and_what_is_not_there_cannot_be_removed(store: Store) -> None:
    store.apply(joined(budget("a"), cache("a")), "ann", "")
    document, changes = store.remove("Budget", "a", "bob", "over")
    assert (document.version, document.budgets, len(document.policies)) == (2, (), 1)
    assert [(c.kind, c.change) for c in changes] == [("Budget", "removed")]
    with pytest.raises(DocumentError, match="no Budget 'a' in version 2"):
        store.remove("Budget", "a", "bob", "")


def test_the_audit_says_who_did_what_and_why(store: Store) -> None:
    store.apply(budget("a"), "ann", "start")
    store.remove("Budget", "a", "bob", "over")
    newest, oldest = store.audit()
    assert (oldest["author"], oldest["reason"], oldest["act"], oldest["version"]) == ("ann", "start", "apply", 1)
    assert (newest["author"], newest["act"]) == ("bob", "remove")
    assert [(c["kind"], c["name"], c["change"]) for c in newest["changes"]] == [("Budget", "a", "removed")]
    assert "-limit: 5 USD" in newest["changes"][0]["diff"] and "+limit: 5 USD" in oldest["changes"][0]["diff"]


def test_a_revert_is_a_new_version_with_the_old_objects_and_their_texts(store: Store) -> None:
    store.apply(joined(budget("a"), cache("c")), "ann", "start")
    store.apply(budget("a", "6 USD"), "bob", "raise")
    store.remove("Policy", "c", "bob", "off")
    document, changes = store.revert(1, "ann", "too much")
    assert [(c.name, c.change) for c in changes] == [("a", "changed"), ("c", "added")]
    assert document.version == 4 and document.content() == store.at(1).content()
    assert store.sources()["Budget", "a"] == (4, budget("a"))
    assert store.audit()[0]["act"] == "revert"
    assert store.revert(1, "ann", "again")[0].version == 4  # nothing to change, no version
    with pytest.raises(DocumentError, match="there is no version 9; allowed: 0 to 4"):
        store.revert(9, "ann", "")


def test_two_versions_are_compared_as_they_were_written(store: Store) -> None:
    store.apply(joined(budget("a"), cache("c")), "ann", "start")
    store.apply(budget("a", "6 USD # more"), "bob", "raise")
    store.remove("Policy", "c", "bob", "off")
    changes, diff = store.between(1, 3)
    assert [(c.name, c.change) for c in changes] == [("a", "changed"), ("c", "removed")]
    assert "-limit: 5 USD\n+limit: 6 USD # more" in diff and "--- Policy/c\n+++ /dev/null" in diff
    assert store.between(2, 2) == ((), "")


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET author = 'eve'"])
def test_the_audit_cannot_be_rewritten(store: Store, engine: Engine, statement: str) -> None:
    store.apply(budget("a"), "ann", "")
    with pytest.raises(IntegrityError, match="append-only"), writing(engine) as connection:
        connection.execute(text(statement))
    assert store.audit()[0]["author"] == "ann"


def test_a_plan_writes_nothing(store: Store) -> None:
    from policies.load import load

    document, changes = store.plan(load(budget("a")))
    assert (document.version, changes[0].change, store.current().version) == (1, "added", 0)


def test_everything_is_there_after_a_restart(store: Store, engine: Engine) -> None:
    document, _ = store.apply(joined(budget("a"), cache("c")), "ann", "")
    url = engine.url
    engine.dispose()
    again = open_database(str(url))
    assert Store(again).current() == document
    again.dispose()


def test_a_database_of_a_newer_farthing_is_refused(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("INSERT INTO schema_version VALUES (99)"))
    with pytest.raises(LedgerError, match=f"schema 99, this Farthing knows {len(MIGRATIONS)}"):
        open_database(str(engine.url))


def test_a_commit_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/deep/control.db")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
    engine.dispose()


def test_a_commit_is_on_the_disk_even_of_a_server_that_does_not_wait_for_it(postgres: Postgres) -> None:
    postgres.empty()
    engine = open_database(f"{postgres.url}?options=-csynchronous_commit%3Doff")
    with engine.connect() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
    engine.dispose()


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x", "sqlite://", "sqlite:///:memory:"])
def test_a_database_that_cannot_be_used_names_the_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="control_db"):
        open_database(url)


def test_a_folder_that_cannot_be_written_is_a_ledger_error(tmp_path: Path) -> None:
    (tmp_path / "control.db").mkdir()
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/control.db")
