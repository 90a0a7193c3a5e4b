"""The analyzer's HTTP API, route by route; each function blocks and runs in a thread.

All of it speaks for the one tenant that the settings name.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from msgspec.json import encode

from analyzer import figures, html, plan, plan_page, questions, report, slo
from analyzer.alerting.post import DeliveryError
from analyzer.guardrails import MAX_CALLS, judge
from analyzer.http import HttpError, Request, Response, json
from analyzer.jobs import ANALYZE, GAINS, HOURS, Schedule, analyze_window
from analyzer.notation import exact_usd
from analyzer.questions import QUESTIONS, ParameterError
from analyzer.window import Window, last_hours
from farthing.access import is_write
from farthing.audit import Audit
from farthing.errors import DocumentError, ServeError
from farthing.policy import Document
from farthing.settings import Settings

FINDINGS = 1_000  # rows of one answer
PLAN_HOURS = 7 * 24.0  # replayed by a plan that names no window
_ASK = "/v1/ask/"
_BOUNDS = ("since", "until", "hours")


@dataclass(frozen=True)
class Api:
    """The routes, over the settings and the running schedule."""

    settings: Settings
    schedule: Schedule
    audit: Audit

    def health(self, _: Request) -> Response:
        """Say that the process serves, and when the job runs next."""
        due = self.schedule.next_run_at
        return json({"status": "ok", "next_run_at": due.isoformat() if due else None})

    def run_now(self, request: Request) -> Response:
        """Analyse a window now, wait, and return the run's record."""
        run = analyze_window(self.schedule.context, self._window(request, HOURS))
        if not run.ok:
            raise HttpError(503, "run_failed", f"run {run.run_id}: {run.error}")
        return json(asdict(run), note=f"run {run.run_id}: {run.findings} findings")

    def learn_now(self, _: Request) -> Response:
        """Train what new grades teach, wait, and say what became of each pair of models."""
        try:
            return json({"gains": [asdict(one) for one in self.schedule.learner.run()]})
        except ServeError as error:
            raise HttpError(503, "control_unavailable", str(error)) from None

    def gains(self, _: Request) -> Response:
        """Return what the last training found of each pair of models."""
        return json({"gains": [asdict(one) for one in self.schedule.learner.newest]})

    def runs(self, _: Request) -> Response:
        """Return the newest runs, the newest first."""
        newest = self.schedule.context.runs.newest(self.settings.tenant)
        return json({"runs": [asdict(run) for run in newest]})

    def findings(self, _: Request) -> Response:
        """Return what the newest run of each kind found."""
        return json({"findings": self._rows("findings", {"limit": FINDINGS})})

    def make_report(self, request: Request) -> Response:
        """Write a report and return its paths and its spend."""
        context, folder = self.schedule.context, self.settings.reports
        made = report.make(context.warehouse, folder, self._window(request, HOURS), context.clock())
        paths = {"html": str(made.html), "markdown": str(made.markdown)}
        return json({**paths, "spend_usd": exact_usd(made.spend_usd)}, note=str(made.html))

    def latest_report(self, _: Request) -> Response:
        """Return the newest report as a page."""
        path = self.settings.reports / f"{report.LATEST}.html"
        try:
            return Response(path.read_bytes(), content_type="text/html; charset=utf-8")
        except FileNotFoundError:
            raise HttpError(404, "no_report", "there is no report yet; POST /v1/reports makes one") from None

    def totals(self, request: Request) -> Response:
        """Return what was spent, saved and served in a window; a sum over nothing is 0."""
        window = self._window(request, HOURS)
        row = figures.ask(self.schedule.context.warehouse, window, "totals", teams=[], models=[])[0]
        sums = {name: exact_usd(row[name]) for name in ("cost_usd", "saved_usd")}
        bounds = {"since": window.since.isoformat(), "until": window.until.isoformat()}
        return json({**questions.plain(row), **sums, **bounds})

    def plan(self, request: Request) -> Response:
        """Predict what a change of the policy document would do, from the calls of a window."""
        given = request.json_object()
        if set(given) != {"before", "after"}:
            raise HttpError(400, "invalid_plan", "the body has two keys, before and after: policy documents")
        try:
            before, after = (Document.from_json(encode(given[side])) for side in ("before", "after"))
        except DocumentError as error:
            raise HttpError(400, "invalid_plan", str(error)) from None
        context = self.schedule.context
        made = plan.make(context.warehouse, self.settings, self._window(request, PLAN_HOURS), before, after)
        written = plan_page.page(made, context.clock())
        return json({**plan.plain(made), "html": html.render(written)})

    def alerts(self, _: Request) -> Response:
        """Return the newest alerts that fired, with their deliveries, and the channels there are."""
        watch = self.schedule.watch
        return json({"alerts": watch.outbox.newest(), "channels": watch.channels})

    def look_at_alerts(self, _: Request) -> Response:
        """Look at all alerts now, send what is due, and say what came of it."""
        return json(asdict(self.schedule.watch.look()))

    def test_channel(self, request: Request) -> Response:
        """Send a test message through the channel that the query names."""
        name, watch = request.query.get("channel", ""), self.schedule.watch
        try:
            watch.test(name)
        except KeyError:
            known = ", ".join(watch.channels) or "none"
            raise HttpError(404, "no_channel", f"channel={name!r} is unknown; known: {known}") from None
        except DeliveryError as error:
            raise HttpError(502, "not_delivered", f"{name}: {error}") from None
        return json({"sent": name})

    def guardrails(self, request: Request) -> Response:
        """Judge the guardrails of policies on trial, each since it is as it is: {document, since: {name: time}}."""
        given = request.json_object()
        try:
            document = Document.from_json(encode(given["document"]))
            policies, slos = document.policies, {one.name: one for one in document.slos}
            since = {one.name: questions.moment("since", str(given["since"][one.name])) for one in policies}
        except (KeyError, TypeError, DocumentError, ParameterError) as error:
            raise HttpError(400, "invalid_guardrails", f"the body is document and since, by policy: {error}") from None
        first, now = min(since.values(), default=None), self.schedule.context.clock()
        if first is None or first >= now:
            return json({"verdicts": []})
        window = Window(self.settings.tenant, first, now)
        rows = figures.ask(self.schedule.context.warehouse, window, "trial_calls", limit=MAX_CALLS)
        return json({"verdicts": [asdict(one) for one in judge(policies, since, rows, slos, window.tenant)]})

    def slos(self, request: Request) -> Response:
        """Tell how the objectives of a policy document stand: {document}."""
        given = request.json_object()
        try:
            wanted = Document.from_json(encode(given["document"])).slos
        except (KeyError, TypeError, DocumentError) as error:
            raise HttpError(400, "invalid_slos", f"the body is a document: {error}") from None
        context = self.schedule.context
        found = slo.standings(context.warehouse, self.settings.tenant, wanted, context.clock())
        return json({"slos": [asdict(one) for one in found]})

    def writes(self, request: Request) -> Response:
        """Return what was asked of this API to be done, by whom, and what became of it, the newest first."""
        try:
            return json(self.audit.page(request.query))
        except ValueError as error:
            raise HttpError(400, "invalid_parameter", str(error)) from None

    def ask(self, request: Request) -> Response:
        """Answer one of the listed questions with the parameters of the JSON body."""
        question = request.path.removeprefix(_ASK)
        if question not in QUESTIONS:
            raise HttpError(404, "no_question", f"no question {question!r}; known: {', '.join(QUESTIONS)}")
        return json({"rows": self._rows(question, request.json_object())})

    def _rows(self, question: str, given: dict[str, Any]) -> list[Any]:
        context = self.schedule.context
        try:
            values = questions.parameters(question, given, context.clock())
        except ParameterError as error:
            raise HttpError(400, "invalid_parameter", str(error)) from None
        rows = context.warehouse.ask(question, tenant=self.settings.tenant, part=figures.PART, **values)
        return questions.plain(rows)

    def _window(self, request: Request, hours: float) -> Window:
        """Return the window that a query string names: `since` to `until`, or `hours` before `until` or now."""
        try:
            return self._bounds(request.query, hours)
        except (ValueError, OverflowError) as error:
            raise HttpError(400, "invalid_parameter", str(error)) from None

    def _bounds(self, query: Mapping[str, str], hours: float) -> Window:
        unknown = sorted(set(query) - set(_BOUNDS))
        if unknown:
            raise ParameterError(f"unknown parameter {unknown[0]!r}; allowed are {', '.join(_BOUNDS)}")
        until = questions.moment("until", query["until"]) if "until" in query else self.schedule.context.clock()
        window = last_hours(self.settings.tenant, _hours(query.get("hours"), hours), until)
        if "since" not in query:
            return window
        since = questions.moment("since", query["since"])
        if since >= window.until:
            raise ParameterError(f"since = {query['since']!r}; allowed is a time before {window.until.isoformat()}")
        return Window(window.tenant, since, window.until)


def _hours(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        raise ParameterError(f"hours = {text!r}; allowed is a number such as 24") from None


@dataclass(frozen=True)
class Route:
    """One thing that can be asked; a route without a need cannot be written down."""

    method: str
    path: str  # as it is, or ending in / and followed by one more segment
    needs: str  # of farthing.access.GRANTS
    handler: Callable[[Api, Request], Response]

    @property
    def is_write(self) -> bool:
        return is_write(self.method, self.needs)

    def takes(self, method: str, path: str) -> bool:
        is_it = path.startswith(self.path) if self.path.endswith("/") else path == self.path
        return method == self.method and is_it


ROUTES = (
    Route("GET", "/healthz", "nothing", Api.health),
    Route("POST", f"/v1/jobs/{ANALYZE}/run", "operator", Api.run_now),
    Route("POST", f"/v1/jobs/{GAINS}/run", "operator", Api.learn_now),
    Route("GET", "/v1/gains", "viewer", Api.gains),
    Route("GET", "/v1/findings", "viewer", Api.findings),
    Route("GET", "/v1/runs", "viewer", Api.runs),
    Route("POST", "/v1/reports", "operator", Api.make_report),
    Route("GET", "/v1/reports/latest", "viewer", Api.latest_report),
    Route("GET", "/v1/totals", "viewer", Api.totals),
    Route("GET", "/v1/alerts", "viewer", Api.alerts),
    Route("POST", "/v1/alerts/look", "operator", Api.look_at_alerts),
    Route("POST", "/v1/alerts/test", "operator", Api.test_channel),
    Route("GET", "/v1/writes", "operator", Api.writes),
    Route("POST", "/v1/plan", "viewer", Api.plan),
    Route("POST", "/v1/guardrails", "viewer", Api.guardrails),
    Route("POST", "/v1/slos", "viewer", Api.slos),
    Route("POST", _ASK, "viewer", Api.ask),
)


def route_of(method: str, path: str) -> Route:
    """Return the route of a request.

    Raises:
        HttpError: 404, there is none; nothing is answered that the table does not name.
    """
    found = next((route for route in ROUTES if route.takes(method, path)), None)
    if found is None:
        known = ", ".join(f"{route.method} {route.path}{'<question>' * (route.path == _ASK)}" for route in ROUTES)
        raise HttpError(404, "no_route", f"no route {method} {path}; known: {known}")
    return found
