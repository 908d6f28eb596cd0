from nearhash.protos.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ids(_message.Message):
    __slots__ = ("numbers", "texts")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    numbers: bytes
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, numbers: _Optional[bytes] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("collection", "ids", "vectors", "labels", "payloads", "request_id")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: Ids
    vectors: _tensor_pb2.Tensor
    labels: _containers.MessageMap[str, _tensor_pb2.Tensor]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    request_id: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., vectors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("written", "replaced", "sequence")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    written: int
    replaced: int
    sequence: int
    def __init__(self, written: _Optional[int] = ..., replaced: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("collection", "ids", "request_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: Ids
    request_id: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted", "sequence")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    sequence: int
    def __init__(self, deleted: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("collection", "ids", "with_vectors", "with_payloads")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTORS_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: Ids
    with_vectors: bool
    with_payloads: bool
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., with_vectors: bool = ..., with_payloads: bool = ...) -> None: ...

class Points(_message.Message):
    __slots__ = ("ids", "labels", "payloads", "vectors")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    IDS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    ids: Ids
    labels: _containers.MessageMap[str, _tensor_pb2.Tensor]
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    vectors: _tensor_pb2.Tensor
    def __init__(self, ids: _Optional[_Union[Ids, _Mapping]] = ..., labels: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., payloads: _Optional[_Iterable[bytes]] = ..., vectors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: Points
    def __init__(self, points: _Optional[_Union[Points, _Mapping]] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("collection", "filter_json", "window", "window_label")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FILTER_JSON_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_LABEL_FIELD_NUMBER: _ClassVar[int]
    collection: str
    filter_json: str
    window: _tensor_pb2.Tensor
    window_label: str
    def __init__(self, collection: _Optional[str] = ..., filter_json: _Optional[str] = ..., window: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., window_label: _Optional[str] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class ScrollRequest(_message.Message):
    __slots__ = ("collection", "filter_json", "window", "window_label", "page_size", "with_vectors", "with_payloads", "cursor")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FILTER_JSON_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_LABEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTORS_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    collection: str
    filter_json: str
    window: _tensor_pb2.Tensor
    window_label: str
    page_size: int
    with_vectors: bool
    with_payloads: bool
    cursor: str
    def __init__(self, collection: _Optional[str] = ..., filter_json: _Optional[str] = ..., window: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., window_label: _Optional[str] = ..., page_size: _Optional[int] = ..., with_vectors: bool = ..., with_payloads: bool = ..., cursor: _Optional[str] = ...) -> None: ...

class ScrollResponse(_message.Message):
    __slots__ = ("points", "cursor")
    POINTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    points: Points
    cursor: str
    def __init__(self, points: _Optional[_Union[Points, _Mapping]] = ..., cursor: _Optional[str] = ...) -> None: ...
