"""Tells Schemathesis how the bytes of an upload go into a request."""

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def _(ctx, value):
    return value if isinstance(value, bytes) else schemathesis.serializers.serialize_binary(value)


@schemathesis.deserializer("application/octet-stream")
def _(ctx, response):
    return response.content
