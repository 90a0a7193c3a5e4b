"""What the engine tells about itself: its models, its health, and its steps."""
from __future__ import annotations

import dataclasses
from typing import Any

from proxy.engine.fleet import Fleet, Served, ServedEncoder
from proxy.engine.steps import StepEvent

RECENT = 100  # steps shown where a caller names no other number


def models_body(fleet: Fleet) -> dict[str, Any]:
    """Return OpenAI's list of models."""
    return {"object": "list", "data": [model_body(name) for name in fleet.names]}


def model_body(name: str) -> dict[str, Any]:
    """Return OpenAI's model object."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "farthing"}


def health(fleet: Fleet) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of /healthz."""
    body: dict[str, Any] = {"status": "ok" if fleet.state == "ready" else fleet.state}
    if fleet.error:
        body["error"] = fleet.error
    body["models"] = [name for served in (*fleet.served, *fleet.encoders) for name in served.names]
    return 200 if fleet.state == "ready" else 503, body


def steps_body(fleet: Fleet, limit: int = RECENT) -> dict[str, Any]:
    """Return every model's totals and its last `limit` steps; of an encoder, which keeps no steps, the totals."""
    return {
        "models": [_model_steps(served, limit) for served in fleet.served],
        "encoders": [_encoder_totals(served) for served in fleet.encoders],
    }


def _encoder_totals(served: ServedEncoder) -> dict[str, Any]:
    return {
        "names": served.names,
        "engine": served.engine,
        "device": served.device,
        "max_tokens": served.embedder.encoder.shape.max_tokens,
        "waiting_tokens": served.embedder.waiting_tokens,
        "totals": _in_seconds(dataclasses.asdict(served.embedder.totals)),
    }


def _model_steps(served: Served, limit: int) -> dict[str, Any]:
    scheduler = served.worker.scheduler
    totals = dataclasses.asdict(scheduler.log.totals)
    return {
        "names": served.names,
        "engine": served.engine,
        "dtype": served.dtype,
        "device": served.device,
        "max_batch": scheduler.max_batch,
        "prefill_chunk": scheduler.prefill_chunk,
        "max_tokens": scheduler.max_tokens,
        "active": scheduler.active,
        "waiting": scheduler.waiting,
        "failed_steps": served.worker.failed_steps,
        "work": scheduler.work and dataclasses.asdict(scheduler.work),
        "totals": _in_seconds(totals | {"idle_ns": served.worker.idle_ns(), "warmup_ns": served.worker.warmup_ns}),
        "recent": [_step(event) for event in scheduler.log.recent(limit)],
    }


def _in_seconds(totals: dict[str, int]) -> dict[str, float]:
    counts = {name: value for name, value in totals.items() if not name.endswith("_ns")}
    return counts | {name[:-3] + "_s": value / 1e9 for name, value in totals.items() if name not in counts}


def _step(event: StepEvent) -> dict[str, Any]:
    rows = [
        row._asdict() | {"engine_s": share / 1e9} for row, share in zip(event.rows, event.shares_ns, strict=True)
    ]
    return {"started_ns": event.started_ns, "duration_s": event.duration_s, "phase": event.phase, "rows": rows}
