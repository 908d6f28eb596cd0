"""Traces by OpenTelemetry: a span for each RPC, part of its caller's trace. Imported only where they are asked for."""

from __future__ import annotations

from typing import Any

from nearhash.errors import MissingExtraError
from nearhash.service.calls import Answered

_LONGEST_NAME = 80


def trace_interceptor() -> Any:
    """For ``grpc.aio.server``: spans go to the global tracer provider of the process.

    Raises
    ------
    MissingExtraError
        OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.instrumentation.grpc import aio_server_interceptor
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"traces need {error.name}: pip install nearhash[otel]") from error
    return aio_server_interceptor()  # type: ignore[no-untyped-call]


def annotate_span(answered: Answered) -> None:
    """Say in the span of a call what it was about and where the time went."""
    from opentelemetry import trace

    call = answered.call
    attributes = {
        "nearhash.collection": call.collection[:_LONGEST_NAME] or None,
        "nearhash.rows": call.rows,
        "nearhash.k": call.k,
        "nearhash.filter": call.filtered,
        "nearhash.waited": call.spent.waited,
        "nearhash.ran": call.spent.ran,
    }
    trace.get_current_span().set_attributes({name: value for name, value in attributes.items() if value is not None})


def export_traces() -> None:
    """Make a tracer provider that sends spans by OTLP over HTTP; ``OTEL_EXPORTER_OTLP_...`` say where to.

    Raises
    ------
    MissingExtraError
        OpenTelemetry, or its OTLP exporter, is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"traces need {error.name}: pip install nearhash[otel] opentelemetry-exporter-otlp-proto-http"
        ) from error
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
