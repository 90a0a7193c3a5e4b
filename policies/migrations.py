"""The schema of the control database as numbered steps; a step that was released is never edited, only followed.

Plain SQL that SQLite and PostgreSQL both read; where they differ, a step holds one text for each.
"""
from __future__ import annotations

from sqlalchemy import Connection

from farthing.errors import LedgerError

Statement = str | dict[str, str]  # one text, or dialect name -> text

DOCUMENTS: tuple[Statement, ...] = (
    """CREATE TABLE documents (
        version BIGINT NOT NULL PRIMARY KEY,
        created_ns BIGINT NOT NULL,
        author TEXT NOT NULL,
        reason TEXT NOT NULL,
        source TEXT NOT NULL,
        canonical TEXT NOT NULL,
        checksum TEXT NOT NULL
    )""",
    """CREATE TABLE objects (
        version BIGINT NOT NULL REFERENCES documents (version),
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        PRIMARY KEY (kind, name, version)
    )""",
    """CREATE TABLE audit (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        author TEXT NOT NULL,
        act TEXT NOT NULL,
        reason TEXT NOT NULL,
        version BIGINT NOT NULL REFERENCES documents (version),
        changes TEXT NOT NULL
    )""",
    {
        "sqlite": """CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
            BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END""",
        "postgresql": """CREATE FUNCTION audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'audit is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    },
    {
        "sqlite": """CREATE TRIGGER audit_is_final BEFORE UPDATE ON audit
            BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END""",
        "postgresql": """CREATE TRIGGER audit_is_final BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
            FOR EACH STATEMENT EXECUTE FUNCTION audit_refuses()""",
    },
)

LEDGER: tuple[Statement, ...] = (
    "CREATE TABLE ledger_owner (id INTEGER NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, commits BIGINT NOT NULL)",
    "INSERT INTO ledger_owner (id, epoch, commits) VALUES (1, 0, 0)",
    """CREATE TABLE balances (
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        start_ns BIGINT NOT NULL,
        end_ns BIGINT,
        configured_nusd BIGINT NOT NULL,
        limit_nusd BIGINT,
        spent_nusd BIGINT NOT NULL,
        held_nusd BIGINT NOT NULL,
        overrun_nusd BIGINT NOT NULL,
        refused BIGINT NOT NULL,
        PRIMARY KEY (budget, period),
        CONSTRAINT never_over CHECK (
            spent_nusd >= 0 AND held_nusd >= 0 AND (limit_nusd IS NULL OR spent_nusd + held_nusd <= limit_nusd)
        )
    )""",
    """CREATE TABLE holds (
        request_id TEXT NOT NULL,
        attempt BIGINT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        held_nusd BIGINT NOT NULL,
        charged_nusd BIGINT NOT NULL,
        overrun_nusd BIGINT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'expired', 'corrected')),
        reserved_ns BIGINT NOT NULL,
        settled_ns BIGINT,
        PRIMARY KEY (request_id, attempt, budget),
        FOREIGN KEY (budget, period) REFERENCES balances (budget, period)
    )""",
    "CREATE INDEX holds_open ON holds (reserved_ns) WHERE state = 'open'",
    "CREATE INDEX holds_settled ON holds (settled_ns)",
)

KEYS: tuple[Statement, ...] = (
    """CREATE TABLE api_keys (
        name TEXT NOT NULL PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        shown TEXT NOT NULL,
        tenant TEXT NOT NULL,
        team TEXT NOT NULL,
        user_name TEXT NOT NULL,
        models TEXT NOT NULL,
        routes TEXT NOT NULL,
        created_ns BIGINT NOT NULL,
        expires_ns BIGINT,
        old_digest TEXT,
        old_until_ns BIGINT,
        revoked_ns BIGINT
    )""",
    """CREATE TABLE key_events (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        key TEXT NOT NULL REFERENCES api_keys (name),
        act TEXT NOT NULL CHECK (act IN ('create', 'rotate', 'revoke')),
        author TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
)

LEASES: tuple[Statement, ...] = (
    # a part of held_nusd, so that the CHECK on what is spent and held covers it
    "ALTER TABLE balances ADD COLUMN leased_nusd BIGINT NOT NULL DEFAULT 0 CHECK (leased_nusd >= 0)",
    """CREATE TABLE leases (
        worker TEXT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        leased_nusd BIGINT NOT NULL CHECK (leased_nusd >= 0),
        charged_nusd BIGINT NOT NULL CHECK (charged_nusd >= 0),
        state TEXT NOT NULL CHECK (state IN ('open', 'expired', 'closed')),
        number BIGINT NOT NULL,
        granted_nusd BIGINT NOT NULL,
        renewed_ns BIGINT NOT NULL,
        PRIMARY KEY (worker, budget, period),
        FOREIGN KEY (budget, period) REFERENCES balances (budget, period)
    )""",
    "CREATE INDEX leases_open ON leases (state) WHERE state <> 'closed'",
)

BUDGETS: tuple[Statement, ...] = (
    "ALTER TABLE balances ADD COLUMN granted_nusd BIGINT NOT NULL DEFAULT 0 CHECK (granted_nusd >= 0)",
    """CREATE TABLE budget_grants (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        amount_nusd BIGINT NOT NULL,
        author TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
    """CREATE TABLE budget_events (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        threshold TEXT NOT NULL,
        spent_nusd BIGINT NOT NULL,
        limit_nusd BIGINT NOT NULL,
        UNIQUE (budget, period, threshold)
    )""",
)

TOKENS: tuple[Statement, ...] = (
    """CREATE TABLE api_tokens (
        name TEXT NOT NULL PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin', 'proxy')),
        created_ns BIGINT NOT NULL,
        expires_ns BIGINT,
        revoked_ns BIGINT
    )""",
    """CREATE TABLE token_events (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        token TEXT NOT NULL REFERENCES api_tokens (name),
        act TEXT NOT NULL CHECK (act IN ('create', 'revoke')),
        author TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
)

PENDING: tuple[Statement, ...] = (
    """CREATE TABLE pending_changes (
        number BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        author TEXT NOT NULL,
        reason TEXT NOT NULL,
        act TEXT NOT NULL,
        source TEXT NOT NULL,
        replaces INTEGER NOT NULL,
        base_version BIGINT NOT NULL,
        why TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'refused')),
        decided_by TEXT NOT NULL,
        decided_ns BIGINT
    )""",
)

GAINS: tuple[Statement, ...] = (
    """CREATE TABLE gain_models (
        weak TEXT NOT NULL,
        strong TEXT NOT NULL,
        grade TEXT NOT NULL,
        version BIGINT NOT NULL,
        checksum TEXT NOT NULL,
        created_ns BIGINT NOT NULL,
        trained TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (weak, strong, grade, version)
    )""",
    "CREATE INDEX gain_models_checksum ON gain_models (checksum)",
)

EXPIRED: tuple[Statement, ...] = (
    # what was charged by guess; the reconciliation asks for it again and again
    "CREATE INDEX holds_expired ON holds (settled_ns) WHERE state = 'expired'",
)

# Several tenants, each with versions of its own, as the primary key has to say.
GAIN_TENANTS: tuple[Statement, ...] = (
    "ALTER TABLE gain_models RENAME TO gain_models_of_one",
    "DROP INDEX gain_models_checksum",
    """CREATE TABLE gain_models (
        tenant TEXT NOT NULL,
        weak TEXT NOT NULL,
        strong TEXT NOT NULL,
        grade TEXT NOT NULL,
        version BIGINT NOT NULL,
        checksum TEXT NOT NULL,
        created_ns BIGINT NOT NULL,
        trained TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (tenant, weak, strong, grade, version)
    )""",
    """INSERT INTO gain_models (tenant, weak, strong, grade, version, checksum, created_ns, trained, body)
        SELECT '', weak, strong, grade, version, checksum, created_ns, trained, body FROM gain_models_of_one""",
    "DROP TABLE gain_models_of_one",
    "CREATE INDEX gain_models_checksum ON gain_models (checksum)",
)

CORRECTIONS: tuple[Statement, ...] = (
    """CREATE TABLE lease_corrections (
        entry BIGINT NOT NULL PRIMARY KEY,
        at_ns BIGINT NOT NULL,
        worker TEXT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        heard_ns BIGINT NOT NULL,
        returned_nusd BIGINT NOT NULL CHECK (returned_nusd >= 0)
    )""",
    "CREATE INDEX lease_corrections_at ON lease_corrections (at_ns)",
)

LASTING: tuple[Statement, ...] = ("ALTER TABLE holds ADD COLUMN expires_ns BIGINT",)

MIGRATIONS = (
    DOCUMENTS, LEDGER, KEYS, LEASES, BUDGETS, TOKENS, PENDING, GAINS, EXPIRED, GAIN_TENANTS, CORRECTIONS,
    LASTING,
)  # fmt: skip


def migrate(connection: Connection) -> int:
    """Run the steps that this database lacks, inside the caller's transaction; return its version.

    Raises:
        LedgerError: the database was written by a newer Farthing.
    """
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY)")
    version = connection.exec_driver_sql("SELECT MAX(version) FROM schema_version").scalar() or 0
    if version > len(MIGRATIONS):
        known = len(MIGRATIONS)
        raise LedgerError(f"the control database has schema {version}, this Farthing knows {known}; upgrade Farthing")
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in statements:
            text = statement if isinstance(statement, str) else statement[connection.dialect.name]
            connection.exec_driver_sql(text)
        connection.exec_driver_sql(f"INSERT INTO schema_version (version) VALUES ({number:d})")
    return len(MIGRATIONS)
