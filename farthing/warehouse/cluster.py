"""The one list of statements on a cluster: ON CLUSTER, Replicated engines, and a Distributed table over each local one.

A table whose rows are many is sharded: its rows lie in `<name>_local`, views read and write there, and `<name>` is the
Distributed table that questions read. The tables in `WHOLE` are small and asked by every node (prices, what was
applied), so that every node holds all of their rows and their name stays.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

WHOLE = frozenset({
    "price_book", "own_prices", "repricings", "server_rules", "findings", "upkeep", "schema_migrations",
    "schema_generated",
})  # fmt: skip
_REMEMBERED_S = 7 * 86_400  # seconds that a replicated table remembers a segment's token at most

_IF = r"(?:IF (?:NOT )?EXISTS )?"
_CREATE_TABLE = re.compile(rf"CREATE TABLE ({_IF})(\w+)")
_CREATE_VIEW = re.compile(rf"CREATE MATERIALIZED VIEW ({_IF})(\w+) TO (\w+)")
_CREATE_DICTIONARY = re.compile(rf"CREATE (OR REPLACE )?DICTIONARY ({_IF})(\w+)")
_VERBS = "(?:ALTER|TRUNCATE|OPTIMIZE|DROP|DETACH|ATTACH) TABLE|DROP (?:VIEW|DICTIONARY)|DELETE FROM|UPDATE"
_CHANGE = re.compile(rf"({_VERBS}) ({_IF})(\w+)")
_RELOAD = re.compile(r"SYSTEM RELOAD DICTIONARY ")
_ENGINE = re.compile(r"\bENGINE\s*=\s*(\w*MergeTree)\b(?:\s*\(((?:[^()]|\([^()]*\))*)\))?")
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\s*=\s*(\d+)")
_COLUMN = re.compile(r"\b(?:ADD|DROP|MODIFY|RENAME|COMMENT) COLUMN\b")


@dataclass(frozen=True)
class Cluster:
    """A cluster as `system.clusters` names it; its nodes define the macros {shard} and {replica}."""

    name: str
    database: str
    sharded: frozenset[str]  # tables that lie in `<name>_local`

    def local(self, table: str) -> str:
        """Return where the rows of `table` lie on each node."""
        return f"{table}_local" if table in self.sharded else table

    def render(self, statement: str) -> list[str]:
        """Return what one statement, without comments, becomes on the cluster."""
        if match := _CREATE_TABLE.match(statement):
            return self._table(statement, match)
        if match := _CREATE_VIEW.match(statement):
            clause, name, target = match.groups()
            head = f"CREATE MATERIALIZED VIEW {clause}{name} {self._everywhere} TO {self.local(target)}"
            return [head + self.reading_local(statement[match.end() :])]
        if match := _CREATE_DICTIONARY.match(statement):
            return [f"{match.group(0)} {self._everywhere}{statement[match.end() :]}"]
        if match := _CHANGE.match(statement):
            return self._change(statement, match)
        if match := _RELOAD.match(statement):
            return [f"{match.group(0)}{self._everywhere} {statement[match.end() :]}"]
        return [statement]

    def reading_local(self, select: str) -> str:
        """Return the SELECT of a view, which sees only what is inserted into the tables of its own node."""
        for table in self.sharded:
            select = re.sub(rf"\b(FROM|JOIN)(\s+){table}\b", rf"\1\2{table}_local", select)
        return select

    @property
    def _everywhere(self) -> str:
        return f"ON CLUSTER {self.name}"

    def _table(self, statement: str, match: re.Match[str]) -> list[str]:
        clause, name = match.groups()
        rest = _WINDOW.sub(
            rf"replicated_deduplication_window = \1, replicated_deduplication_window_seconds = {_REMEMBERED_S}",
            statement[match.end() :],
        )
        local = self.local(name)
        rest = _ENGINE.sub(lambda engine: f"ENGINE = {self._replicated(engine, local)}", rest, count=1)
        made = [f"CREATE TABLE {clause}{local} {self._everywhere}{rest}"]
        if name in self.sharded:
            over = f"Distributed('{self.name}', '{self.database}', '{local}', rand())"
            made.append(f"CREATE TABLE {clause}{name} {self._everywhere} AS {local} ENGINE = {over}")
        return made

    def _replicated(self, engine: re.Match[str], local: str) -> str:
        kind, arguments = engine.groups()
        shard, replica = ("all", "{shard}-{replica}") if local in WHOLE else ("{shard}", "{replica}")
        keeper = f"'/clickhouse/tables/{shard}/{self.database}/{local}', '{replica}'"
        return f"Replicated{kind}({keeper}{', ' + arguments if arguments else ''})"

    def _change(self, statement: str, match: re.Match[str]) -> list[str]:
        """Change the rows' own table; the Distributed one follows only in its columns and its end."""
        verb, clause, name = match.groups()
        rest = statement[match.end() :]
        if rest.startswith(" MODIFY QUERY "):
            rest = self.reading_local(rest)
        local = self.local(name)
        made = [f"{verb} {clause}{local} {self._everywhere}{self._windows(rest)}"]
        if local != name and (verb == "DROP TABLE" or (verb == "ALTER TABLE" and _COLUMN.search(rest))):
            made.append(f"{verb} {clause}{name} {self._everywhere}{rest}")
        return made

    def _windows(self, rest: str) -> str:
        return _WINDOW.sub(r"replicated_deduplication_window = \1", rest)


def sharded_in(statements: Iterable[str]) -> frozenset[str]:
    """Return the tables that the statements create with rows of their own and that not every node holds whole."""
    created = (match.group(2) for one in statements if (match := _CREATE_TABLE.match(one)) and _ENGINE.search(one))
    return frozenset(created) - WHOLE
