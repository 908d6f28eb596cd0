from nearhash.protos.v1 import search_pb2 as _search_pb2
from nearhash.protos.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionSettings(_message.Message):
    __slots__ = ("layers", "kv_heads", "head_dim", "codec", "dtype", "seed")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_DIM_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    layers: int
    kv_heads: int
    head_dim: int
    codec: str
    dtype: str
    seed: int
    def __init__(self, layers: _Optional[int] = ..., kv_heads: _Optional[int] = ..., head_dim: _Optional[int] = ..., codec: _Optional[str] = ..., dtype: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class CreateSessionRequest(_message.Message):
    __slots__ = ("settings", "lease", "memory_limit", "request_id")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    settings: SessionSettings
    lease: float
    memory_limit: int
    request_id: str
    def __init__(self, settings: _Optional[_Union[SessionSettings, _Mapping]] = ..., lease: _Optional[float] = ..., memory_limit: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session", "lease", "server")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    session: str
    lease: float
    server: _search_pb2.ServerInfo
    def __init__(self, session: _Optional[str] = ..., lease: _Optional[float] = ..., server: _Optional[_Union[_search_pb2.ServerInfo, _Mapping]] = ...) -> None: ...

class AppendKVRequest(_message.Message):
    __slots__ = ("session", "layer", "start", "keys", "values")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    session: str
    layer: int
    start: int
    keys: _tensor_pb2.Tensor
    values: _tensor_pb2.Tensor
    def __init__(self, session: _Optional[str] = ..., layer: _Optional[int] = ..., start: _Optional[int] = ..., keys: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class AppendKVResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    def __init__(self, tokens: _Optional[int] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("estimator", "share", "count", "sink", "local", "scale", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ReadingOption
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ReadingOption, _Mapping]] = ...) -> None: ...
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    estimator: str
    share: float
    count: int
    sink: int
    local: int
    scale: float
    options: _containers.MessageMap[str, ReadingOption]
    def __init__(self, estimator: _Optional[str] = ..., share: _Optional[float] = ..., count: _Optional[int] = ..., sink: _Optional[int] = ..., local: _Optional[int] = ..., scale: _Optional[float] = ..., options: _Optional[_Mapping[str, ReadingOption]] = ...) -> None: ...

class ReadingOption(_message.Message):
    __slots__ = ("real", "integer", "flag")
    REAL_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    real: float
    integer: int
    flag: bool
    def __init__(self, real: _Optional[float] = ..., integer: _Optional[int] = ..., flag: bool = ...) -> None: ...

class Asked(_message.Message):
    __slots__ = ("session", "layer", "queries", "step")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session: str
    layer: int
    queries: _tensor_pb2.Tensor
    step: int
    def __init__(self, session: _Optional[str] = ..., layer: _Optional[int] = ..., queries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., step: _Optional[int] = ...) -> None: ...

class AttendRequest(_message.Message):
    __slots__ = ("asked", "reading")
    ASKED_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    asked: _containers.RepeatedCompositeFieldContainer[Asked]
    reading: Reading
    def __init__(self, asked: _Optional[_Iterable[_Union[Asked, _Mapping]]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ...) -> None: ...

class Attended(_message.Message):
    __slots__ = ("output", "lse", "reads", "error")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LSE_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    output: _tensor_pb2.Tensor
    lse: _tensor_pb2.Tensor
    reads: _tensor_pb2.Tensor
    error: _tensor_pb2.Tensor
    def __init__(self, output: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., lse: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., reads: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., error: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class AttendResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Attended]
    def __init__(self, results: _Optional[_Iterable[_Union[Attended, _Mapping]]] = ...) -> None: ...

class RetrieveRequest(_message.Message):
    __slots__ = ("asked", "reading")
    ASKED_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    asked: _containers.RepeatedCompositeFieldContainer[Asked]
    reading: Reading
    def __init__(self, asked: _Optional[_Iterable[_Union[Asked, _Mapping]]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ...) -> None: ...

class Retrieval(_message.Message):
    __slots__ = ("head", "first", "last", "positions", "log_probabilities")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    head: int
    first: int
    last: int
    positions: _tensor_pb2.Tensor
    log_probabilities: _tensor_pb2.Tensor
    def __init__(self, head: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., positions: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., log_probabilities: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Retrieved(_message.Message):
    __slots__ = ("retrievals",)
    RETRIEVALS_FIELD_NUMBER: _ClassVar[int]
    retrievals: _containers.RepeatedCompositeFieldContainer[Retrieval]
    def __init__(self, retrievals: _Optional[_Iterable[_Union[Retrieval, _Mapping]]] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Retrieved]
    def __init__(self, results: _Optional[_Iterable[_Union[Retrieved, _Mapping]]] = ...) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("session", "length", "lease", "request_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session: str
    length: int
    lease: float
    request_id: str
    def __init__(self, session: _Optional[str] = ..., length: _Optional[int] = ..., lease: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("session", "lease")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    session: str
    lease: float
    def __init__(self, session: _Optional[str] = ..., lease: _Optional[float] = ...) -> None: ...

class TruncateRequest(_message.Message):
    __slots__ = ("session", "length", "layer")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    session: str
    length: int
    layer: int
    def __init__(self, session: _Optional[str] = ..., length: _Optional[int] = ..., layer: _Optional[int] = ...) -> None: ...

class TruncateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FreeRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class FreeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("session", "lease")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    session: str
    lease: float
    def __init__(self, session: _Optional[str] = ..., lease: _Optional[float] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: float
    def __init__(self, lease: _Optional[float] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class SessionStats(_message.Message):
    __slots__ = ("session", "settings", "tokens", "nbytes", "index_nbytes", "held_bytes", "memory_limit", "lease", "lease_left")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_NBYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_FIELD_NUMBER: _ClassVar[int]
    session: str
    settings: SessionSettings
    tokens: _containers.RepeatedScalarFieldContainer[int]
    nbytes: int
    index_nbytes: int
    held_bytes: int
    memory_limit: int
    lease: float
    lease_left: float
    def __init__(self, session: _Optional[str] = ..., settings: _Optional[_Union[SessionSettings, _Mapping]] = ..., tokens: _Optional[_Iterable[int]] = ..., nbytes: _Optional[int] = ..., index_nbytes: _Optional[int] = ..., held_bytes: _Optional[int] = ..., memory_limit: _Optional[int] = ..., lease: _Optional[float] = ..., lease_left: _Optional[float] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("sessions", "caller_sessions", "max_sessions", "caller_bytes", "max_caller_bytes", "server")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    CALLER_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    CALLER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLER_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStats]
    caller_sessions: int
    max_sessions: int
    caller_bytes: int
    max_caller_bytes: int
    server: _search_pb2.ServerInfo
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionStats, _Mapping]]] = ..., caller_sessions: _Optional[int] = ..., max_sessions: _Optional[int] = ..., caller_bytes: _Optional[int] = ..., max_caller_bytes: _Optional[int] = ..., server: _Optional[_Union[_search_pb2.ServerInfo, _Mapping]] = ...) -> None: ...
