"""Every error that Farthing raises on purpose, as one tree; each message says what, which value, and what to do.

FarthingError
├── SettingsError        a setting is unknown or cannot be read; stops the start
├── DocumentError        a policy document is refused, as a whole
├── KeyRefusedError      a virtual key cannot be made, rotated or revoked as asked
├── TokenRefusedError    a token of the control API cannot be made or revoked so
├── AccessError          a caller is not let in; `.status` is the HTTP status
├── PriceError           a price override cannot be read
├── WarehouseError       the store cannot be opened, is in use, or refused a statement
│   └── SchemaError      the store's schema is not one that this version may change; waiting does not help
├── BackupError          a backup cannot be written, or is not what was written; nothing was restored
├── IngestError          an OTLP body is refused; `.status` is the HTTP status
│   └── StalledError     it did not come whole in time; the sender should retry, on another connection
├── SpoolFullError       the spool cannot take a record now; ask the sender to retry
├── LedgerError          the ledger cannot be reached or refused an operation
│   └── OverBudgetError  a reservation does not fit into a budget
├── UpstreamError        a deployment did not answer as it should
├── EngineError          the engine cannot run a request, or a weight package is missing
├── TraceFileError       a serving trace given to `farthing replay` cannot be read
└── ServeError           a port is in use, or a part did not come up
"""
from __future__ import annotations


class FarthingError(Exception):
    """The root: catch this to catch all that Farthing raises on purpose."""


class SettingsError(FarthingError):
    """A setting is unknown or cannot be read."""


class DocumentError(FarthingError):
    """A policy document is refused, as a whole."""


class KeyRefusedError(FarthingError):
    """A virtual key cannot be made, rotated or revoked as asked."""

    def __init__(self, message: str, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing  # there is no key of that name


class PriceError(FarthingError):
    """A price override cannot be read."""


class WarehouseError(FarthingError):
    """The store cannot be opened, is in use by another process, or refused a statement."""


class SchemaError(WarehouseError):
    """The store's schema is newer than the code, or an applied migration was edited."""


class BackupError(FarthingError):
    """A backup cannot be written, or is not what was written."""


class IngestError(FarthingError):
    """An OTLP body is refused; nothing of it is stored."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status  # HTTP status for the sender: 400, 401, 413, 415 or 503


class StalledError(IngestError):
    """A body did not come whole in time; the sender should retry, on another connection."""


class SpoolFullError(FarthingError):
    """The spool cannot take a record now; the sender should retry."""


class LedgerError(FarthingError):
    """The ledger cannot be reached, or refused an operation."""


class OverBudgetError(LedgerError):
    """A reservation does not fit into a budget; nothing was reserved."""

    def __init__(self, budget: str, limit_nusd: int, free_nusd: int, asked_nusd: int) -> None:
        self.budget = budget
        self.limit_nusd = limit_nusd
        self.free_nusd = free_nusd
        self.asked_nusd = asked_nusd
        super().__init__(
            f"budget {budget!r}: this request may cost up to {asked_nusd / 1e9:.9f} USD, "
            f"{free_nusd / 1e9:.9f} of {limit_nusd / 1e9:.9f} USD are free"
        )


class TokenRefusedError(FarthingError):
    """A token of the control API cannot be made or revoked so; nothing changed."""

    def __init__(self, message: str, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing  # there is no such token


class AccessError(FarthingError):
    """A caller is not let in."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status  # 401, 403, 429 or 503
        self.code = code  # for programs


class UpstreamError(FarthingError):
    """A deployment did not answer as it should."""


class EngineError(FarthingError):
    """The engine cannot run a request, or a weight package is missing."""


class TraceFileError(FarthingError):
    """A serving trace cannot be read."""


class ServeError(FarthingError):
    """A port is in use, a part did not come up, or one answered with an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status  # of the answer; 0: there was none
