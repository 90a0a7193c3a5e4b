"""The tables of the control database, for composing statements; `migrations.py` makes them."""
from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

METADATA = MetaData()

documents = Table(
    "documents",
    METADATA,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("created_ns", BigInteger),  # Unix time, nanoseconds
    Column("author", Text),
    Column("reason", Text),
    Column("source", Text),  # YAML that made this version, verbatim
    Column("canonical", Text),  # the whole document as JSON
    Column("checksum", Text),
)
objects = Table(
    "objects",
    METADATA,
    Column("version", BigInteger, primary_key=True),  # the version that set this text
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("source", Text),  # its YAML document, verbatim
)
audit = Table(
    "audit",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("author", Text),
    Column("act", Text),  # apply | remove
    Column("reason", Text),
    Column("version", BigInteger),
    Column("changes", Text),  # JSON
)
ledger_owner = Table(
    "ledger_owner",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("epoch", BigInteger),  # raised by each owner that takes over; an older owner can no longer commit
    Column("commits", BigInteger),
)
api_keys = Table(
    "api_keys",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("digest", Text),  # hex; the key itself is shown once and kept nowhere
    Column("shown", Text),  # fth_…abcd
    Column("tenant", Text),
    Column("team", Text),
    Column("user_name", Text),
    Column("models", Text),  # JSON list
    Column("routes", Text),  # JSON list
    Column("created_ns", BigInteger),
    Column("expires_ns", BigInteger),  # NULL: never
    Column("old_digest", Text),  # before the last rotation
    Column("old_until_ns", BigInteger),
    Column("revoked_ns", BigInteger),
)
key_events = Table(
    "key_events",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("key", Text),
    Column("act", Text),  # create | rotate | revoke
    Column("author", Text),
    Column("reason", Text),
)
balances = Table(
    "balances",
    METADATA,
    Column("budget", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("start_ns", BigInteger),
    Column("end_ns", BigInteger),  # NULL: never ends
    Column("configured_nusd", BigInteger),  # the limit that the document names
    Column("limit_nusd", BigInteger),  # the limit in force: never below what is spent and held; NULL: a soft budget
    Column("spent_nusd", BigInteger),
    Column("held_nusd", BigInteger),  # set aside: for holds and for leases
    Column("overrun_nusd", BigInteger),  # real cost past the limit, which could no longer be charged
    Column("refused", BigInteger),  # reservations
    Column("leased_nusd", BigInteger),  # of what is set aside: for leases
    Column("granted_nusd", BigInteger),  # on top of the configured limit
)
holds = Table(
    "holds",
    METADATA,
    Column("request_id", Text, primary_key=True),
    Column("attempt", BigInteger, primary_key=True),
    Column("budget", Text, primary_key=True),
    Column("period", Text),  # the one in which it was reserved
    Column("held_nusd", BigInteger),
    Column("charged_nusd", BigInteger),
    Column("overrun_nusd", BigInteger),
    Column("state", Text),  # open | settled | expired (charged in full) | corrected (settled after that)
    Column("reserved_ns", BigInteger),
    Column("settled_ns", BigInteger),
    Column("expires_ns", BigInteger),  # of a hold that asked for a lifetime of its own; NULL: as the settings say
)
budget_grants = Table(
    "budget_grants",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("budget", Text),
    Column("period", Text),
    Column("amount_nusd", BigInteger),
    Column("author", Text),
    Column("reason", Text),
)
budget_events = Table(
    "budget_events",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("budget", Text),
    Column("period", Text),  # of a rolling window: one of its length, so that nothing is told more often
    Column("threshold", Text),  # at 80% | forecast 100%
    Column("spent_nusd", BigInteger),
    Column("limit_nusd", BigInteger),
)
leases = Table(
    "leases",
    METADATA,
    Column("worker", Text, primary_key=True),
    Column("budget", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("leased_nusd", BigInteger),
    Column("charged_nusd", BigInteger),  # of an expired lease: what of its charge nothing has accounted for yet
    Column("state", Text),  # open | expired | closed
    Column("number", BigInteger),  # of the last change
    Column("granted_nusd", BigInteger),  # by the last change
    Column("renewed_ns", BigInteger),
)
lease_corrections = Table(
    "lease_corrections",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("worker", Text),
    Column("budget", Text),
    Column("period", Text),
    Column("heard_ns", BigInteger),  # the worker was last heard of
    Column("returned_nusd", BigInteger),  # of the charge: what no call is known to have cost
)
gain_models = Table(
    "gain_models",
    METADATA,
    Column("tenant", Text, primary_key=True),  # whose calls it is for; empty: of before there were several
    Column("weak", Text, primary_key=True),
    Column("strong", Text, primary_key=True),
    Column("grade", Text, primary_key=True),  # name of the grades that it was trained on
    Column("version", BigInteger, primary_key=True),
    Column("checksum", Text),  # of the weights
    Column("created_ns", BigInteger),
    Column("trained", Text),  # JSON: on what
    Column("body", Text),  # JSON: weights and all
)
tokens = Table(
    "api_tokens",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("digest", Text),  # sha256 of the token, hex
    Column("role", Text),
    Column("created_ns", BigInteger),
    Column("expires_ns", BigInteger),  # NULL: never
    Column("revoked_ns", BigInteger),  # NULL: in force
)
token_events = Table(
    "token_events",
    METADATA,
    Column("entry", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("token", Text),
    Column("act", Text),  # create | revoke
    Column("author", Text),
    Column("reason", Text),
)
pending = Table(
    "pending_changes",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger),
    Column("author", Text),
    Column("reason", Text),
    Column("act", Text),  # apply | mode
    Column("source", Text),  # YAML
    Column("replaces", Integer),  # 1: what it does not name goes
    Column("base_version", BigInteger),  # on which it was weighed
    Column("why", Text),  # it waits
    Column("state", Text),  # waiting | approved | refused
    Column("decided_by", Text),
    Column("decided_ns", BigInteger),
)
