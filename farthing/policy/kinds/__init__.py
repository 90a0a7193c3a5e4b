"""The kinds of object that a policy document holds, once.

A kind is a file beside this one with one `Named` record, a line in `KINDS`, and the field of `Document` that its
`PLURAL` names. Loading, the store, changes, the API, the document that travels and the editors' schema read this table.
"""
from __future__ import annotations

from collections.abc import Mapping

from farthing.policy.kinds.alert import Alert
from farthing.policy.kinds.batch import Batch
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.cache import Cache
from farthing.policy.kinds.key import DeclaredKey
from farthing.policy.kinds.limit import Limit
from farthing.policy.kinds.policy import Policy
from farthing.policy.kinds.report import Report
from farthing.policy.kinds.route import Route
from farthing.policy.kinds.slo import Slo
from farthing.policy.record import Named

KINDS: Mapping[str, type[Named]] = {
    kind.KIND: kind for kind in (Policy, Budget, Route, Cache, Batch, Limit, Slo, Alert, Report, DeclaredKey)
}
