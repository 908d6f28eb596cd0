from nearhash.protos.v1 import hashes_pb2 as _hashes_pb2
from nearhash.protos.v1 import points_pb2 as _points_pb2
from nearhash.protos.v1 import search_pb2 as _search_pb2
from nearhash.protos.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DocumentSettings(_message.Message):
    __slots__ = ("threshold", "sketches", "bands", "rows")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SKETCHES_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    sketches: _hashes_pb2.SketchSettings
    bands: int
    rows: int
    def __init__(self, threshold: _Optional[float] = ..., sketches: _Optional[_Union[_hashes_pb2.SketchSettings, _Mapping]] = ..., bands: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class DocumentCollection(_message.Message):
    __slots__ = ("name", "settings", "size", "state", "nbytes", "disk_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: DocumentSettings
    size: int
    state: str
    nbytes: int
    disk_bytes: int
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[DocumentSettings, _Mapping]] = ..., size: _Optional[int] = ..., state: _Optional[str] = ..., nbytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ...) -> None: ...

class Documents(_message.Message):
    __slots__ = ("texts", "sketches")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    SKETCHES_FIELD_NUMBER: _ClassVar[int]
    texts: _hashes_pb2.Texts
    sketches: _hashes_pb2.Sketches
    def __init__(self, texts: _Optional[_Union[_hashes_pb2.Texts, _Mapping]] = ..., sketches: _Optional[_Union[_hashes_pb2.Sketches, _Mapping]] = ...) -> None: ...

class Duplicates(_message.Message):
    __slots__ = ("indptr", "ids", "similarities")
    INDPTR_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SIMILARITIES_FIELD_NUMBER: _ClassVar[int]
    indptr: _tensor_pb2.Tensor
    ids: _points_pb2.Ids
    similarities: _tensor_pb2.Tensor
    def __init__(self, indptr: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ids: _Optional[_Union[_points_pb2.Ids, _Mapping]] = ..., similarities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class CreateDocumentsRequest(_message.Message):
    __slots__ = ("name", "settings", "if_missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    IF_MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: DocumentSettings
    if_missing: bool
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[DocumentSettings, _Mapping]] = ..., if_missing: bool = ...) -> None: ...

class CreateDocumentsResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: DocumentCollection
    def __init__(self, collection: _Optional[_Union[DocumentCollection, _Mapping]] = ...) -> None: ...

class ListDocumentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDocumentsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[DocumentCollection]
    def __init__(self, collections: _Optional[_Iterable[_Union[DocumentCollection, _Mapping]]] = ...) -> None: ...

class DescribeDocumentsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DescribeDocumentsResponse(_message.Message):
    __slots__ = ("collection", "server")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    collection: DocumentCollection
    server: _search_pb2.ServerInfo
    def __init__(self, collection: _Optional[_Union[DocumentCollection, _Mapping]] = ..., server: _Optional[_Union[_search_pb2.ServerInfo, _Mapping]] = ...) -> None: ...

class DropDocumentsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DropDocumentsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpsertDocumentsRequest(_message.Message):
    __slots__ = ("collection", "ids", "documents", "request_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _points_pb2.Ids
    documents: Documents
    request_id: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[_points_pb2.Ids, _Mapping]] = ..., documents: _Optional[_Union[Documents, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpsertDocumentsResponse(_message.Message):
    __slots__ = ("written", "replaced", "sequence")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    written: int
    replaced: int
    sequence: int
    def __init__(self, written: _Optional[int] = ..., replaced: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class DeleteDocumentsRequest(_message.Message):
    __slots__ = ("collection", "ids", "request_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _points_pb2.Ids
    request_id: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[_points_pb2.Ids, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteDocumentsResponse(_message.Message):
    __slots__ = ("deleted", "sequence")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    sequence: int
    def __init__(self, deleted: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class FindDuplicatesRequest(_message.Message):
    __slots__ = ("collection", "documents", "threshold", "limit")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    documents: Documents
    threshold: float
    limit: int
    def __init__(self, collection: _Optional[str] = ..., documents: _Optional[_Union[Documents, _Mapping]] = ..., threshold: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class FindDuplicatesResponse(_message.Message):
    __slots__ = ("duplicates",)
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    duplicates: Duplicates
    def __init__(self, duplicates: _Optional[_Union[Duplicates, _Mapping]] = ...) -> None: ...

class CheckAndAddRequest(_message.Message):
    __slots__ = ("collection", "ids", "documents", "threshold", "limit", "request_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _points_pb2.Ids
    documents: Documents
    threshold: float
    limit: int
    request_id: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Union[_points_pb2.Ids, _Mapping]] = ..., documents: _Optional[_Union[Documents, _Mapping]] = ..., threshold: _Optional[float] = ..., limit: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class CheckAndAddResponse(_message.Message):
    __slots__ = ("added", "duplicates", "sequence")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    added: _tensor_pb2.Tensor
    duplicates: Duplicates
    sequence: int
    def __init__(self, added: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., duplicates: _Optional[_Union[Duplicates, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...
