"""Tells Schemathesis how the bytes of an upload travel: as those of any other file."""

import schemathesis
from schemathesis.transport.requests import binary_serializer

schemathesis.serializer("application/offset+octet-stream")(binary_serializer)
