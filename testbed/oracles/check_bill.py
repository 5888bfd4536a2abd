"""Judges a bill of materials by the JSON schema of CycloneDX 1.6 (ECMA-424). Says nothing and ends with 0 if it is valid."""

import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

with open(sys.argv[1], encoding="utf-8") as bill:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read())
if error is not None:
    sys.exit(repr(error))
