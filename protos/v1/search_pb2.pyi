from nearhash.protos.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("collection", "queries", "k", "window", "allow", "effort", "filter_json", "window_label", "recall", "with_payloads", "with_vectors")
    class EffortEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    FILTER_JSON_FIELD_NUMBER: _ClassVar[int]
    WINDOW_LABEL_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTORS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    queries: _tensor_pb2.Tensor
    k: int
    window: _tensor_pb2.Tensor
    allow: _tensor_pb2.Tensor
    effort: _containers.MessageMap[str, Scalar]
    filter_json: str
    window_label: str
    recall: float
    with_payloads: bool
    with_vectors: bool
    def __init__(self, collection: _Optional[str] = ..., queries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., k: _Optional[int] = ..., window: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., allow: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., effort: _Optional[_Mapping[str, Scalar]] = ..., filter_json: _Optional[str] = ..., window_label: _Optional[str] = ..., recall: _Optional[float] = ..., with_payloads: bool = ..., with_vectors: bool = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("integer", "real")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    integer: int
    real: float
    def __init__(self, integer: _Optional[int] = ..., real: _Optional[float] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("ids", "distances", "texts", "payloads", "vectors")
    IDS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    ids: _tensor_pb2.Tensor
    distances: _tensor_pb2.Tensor
    texts: _containers.RepeatedScalarFieldContainer[str]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    vectors: _tensor_pb2.Tensor
    def __init__(self, ids: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., distances: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Iterable[str]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., vectors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("collection", "kind", "dim", "metric", "size", "details_json", "server")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    collection: str
    kind: str
    dim: int
    metric: str
    size: int
    details_json: str
    server: ServerInfo
    def __init__(self, collection: _Optional[str] = ..., kind: _Optional[str] = ..., dim: _Optional[int] = ..., metric: _Optional[str] = ..., size: _Optional[int] = ..., details_json: _Optional[str] = ..., server: _Optional[_Union[ServerInfo, _Mapping]] = ...) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("version", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_k", "max_rows", "max_message_bytes", "max_pending", "max_effort", "max_batch", "max_ids", "max_texts", "max_text_bytes")
    MAX_K_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    MAX_EFFORT_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_k: int
    max_rows: int
    max_message_bytes: int
    max_pending: int
    max_effort: int
    max_batch: int
    max_ids: int
    max_texts: int
    max_text_bytes: int
    def __init__(self, max_k: _Optional[int] = ..., max_rows: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_pending: _Optional[int] = ..., max_effort: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_ids: _Optional[int] = ..., max_texts: _Optional[int] = ..., max_text_bytes: _Optional[int] = ...) -> None: ...
