"""The generated code beside the .proto files is what they generate."""

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from nearhash.protos.v1 import (
    attention_pb2,
    collections_pb2,
    documents_pb2,
    hashes_pb2,
    points_pb2,
    search_pb2,
    tensor_pb2,
)

protoc = pytest.importorskip("grpc_tools.protoc")

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {
    f"nearhash/protos/v1/{name}.proto": module
    for name, module in (
        ("attention", attention_pb2),
        ("collections", collections_pb2),
        ("documents", documents_pb2),
        ("hashes", hashes_pb2),
        ("points", points_pb2),
        ("search", search_pb2),
        ("tensor", tensor_pb2),
    )
}


def run_protoc(*arguments: object) -> None:
    include = f"-Inearhash/protos={REPOSITORY / 'protos'}"
    assert protoc.main(["protoc", include, *map(str, arguments), *MODULES]) == 0


def without_json_names(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Generated code leaves them out: they follow from the names."""
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file


def test_descriptors_are_those_of_the_proto_files(tmp_path):
    """Compares what the code describes, not its text, which differs between versions of protoc."""
    run_protoc(f"--descriptor_set_out={tmp_path / 'set'}")
    fresh = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes())
    assert {file.name for file in fresh.file} == set(MODULES)
    for file in fresh.file:
        committed = descriptor_pb2.FileDescriptorProto.FromString(MODULES[file.name].DESCRIPTOR.serialized_pb)
        assert committed == without_json_names(file), f"{file.name} has changed: run `make protos`"


def test_stubs_and_types_know_every_method_and_field():
    for name, module in MODULES.items():
        base = REPOSITORY / name.removeprefix("nearhash/").removesuffix(".proto")
        types = base.with_name(f"{base.name}_pb2.pyi").read_text()
        for message in module.DESCRIPTOR.message_types_by_name.values():
            assert f"class {message.name}(" in types
            for field in message.fields:
                assert f"    {field.name.upper()}_FIELD_NUMBER: _ClassVar[int]" in types
        for service in module.DESCRIPTOR.services_by_name.values():
            stubs = base.with_name(f"{base.name}_pb2_grpc.py").read_text()
            expected = {f"/{service.full_name}/{method.name}" for method in service.methods}
            assert set(re.findall(rf"'(/{service.full_name}/\w+)'", stubs)) == expected
