from hbone.proto import discovery_pb2 as _discovery_pb2
from hbone.proto import sotw_pb2 as _sotw_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
