"""Spans of OpenTelemetry."""

import grpc
import numpy as np
import pytest

import nearhash as nh
from nearhash.protos.v1 import search_pb2, search_pb2_grpc
from nearhash.service.background import running_server
from nearhash.service.config_file import OperationsConfig
from nearhash.service.wire import to_tensor

pytest.importorskip("opentelemetry.instrumentation.grpc")
export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


def test_each_call_is_a_span_of_its_callers_trace():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = export.InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    index = nh.FlatIndex(3)
    index.add(np.eye(3))
    caller = "0af7651916cd43dd8448eb211c80319c"
    operations = OperationsConfig(traces=True)
    with running_server(index, operations=operations) as address, grpc.insecure_channel(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.SearchRequest(queries=to_tensor(np.eye(3), "queries"), k=1)
        answer = stub.Search(request, metadata=(("traceparent", f"00-{caller}-b7ad6b7169203331-01"),), timeout=20)
        assert len(answer.ids.data) == 24
        with pytest.raises(grpc.RpcError):
            stub.Search(search_pb2.SearchRequest(k=1), timeout=20)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["/nearhash.v1.SearchService/Search"] * 2
    assert f"{spans[0].context.trace_id:032x}" == caller
    assert [span.attributes["rpc.grpc.status_code"] for span in spans] == [0, 3]
    found = spans[0].attributes
    assert {name: found[f"nearhash.{name}"] for name in ("collection", "rows", "k", "filter")} == {
        "collection": "default",
        "rows": 3,
        "k": 1,
        "filter": False,
    }
    assert found["nearhash.waited"] >= 0
    assert found["nearhash.ran"] > 0
    assert "nearhash.rows" not in spans[1].attributes  # it was refused before anybody knew
