"""Traces by OpenTelemetry: a span for each RPC, part of its caller's trace. Imported only where they are asked for."""

from __future__ import annotations

from typing import Any

from nearhash.errors import MissingExtraError


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
