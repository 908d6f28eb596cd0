from nearhash.protos.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SketchSettings(_message.Message):
    __slots__ = ("k", "method", "bits", "seed", "ngram", "unit")
    K_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NGRAM_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    k: int
    method: str
    bits: int
    seed: int
    ngram: int
    unit: str
    def __init__(self, k: _Optional[int] = ..., method: _Optional[str] = ..., bits: _Optional[int] = ..., seed: _Optional[int] = ..., ngram: _Optional[int] = ..., unit: _Optional[str] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Sets(_message.Message):
    __slots__ = ("indptr", "tokens")
    INDPTR_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    indptr: _tensor_pb2.Tensor
    tokens: _tensor_pb2.Tensor
    def __init__(self, indptr: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., tokens: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Sketches(_message.Message):
    __slots__ = ("values", "header_json")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    HEADER_JSON_FIELD_NUMBER: _ClassVar[int]
    values: _tensor_pb2.Tensor
    header_json: str
    def __init__(self, values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., header_json: _Optional[str] = ...) -> None: ...

class SketchRequest(_message.Message):
    __slots__ = ("settings", "texts", "sets")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    SETS_FIELD_NUMBER: _ClassVar[int]
    settings: SketchSettings
    texts: Texts
    sets: Sets
    def __init__(self, settings: _Optional[_Union[SketchSettings, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ..., sets: _Optional[_Union[Sets, _Mapping]] = ...) -> None: ...

class SketchResponse(_message.Message):
    __slots__ = ("sketches",)
    SKETCHES_FIELD_NUMBER: _ClassVar[int]
    sketches: Sketches
    def __init__(self, sketches: _Optional[_Union[Sketches, _Mapping]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("vectors", "bits", "seed")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    vectors: _tensor_pb2.Tensor
    bits: int
    seed: int
    def __init__(self, vectors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., bits: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("codes",)
    CODES_FIELD_NUMBER: _ClassVar[int]
    codes: _tensor_pb2.Tensor
    def __init__(self, codes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
