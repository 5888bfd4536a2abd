"""What is in the bucket of `serve.py`, seen by another client: `look.py FOLDER` prints the objects with their digests, and the uploads
that nobody ended."""

import hashlib
import json
import sys
from pathlib import Path

import boto3
from botocore.config import Config


def main(folder: Path) -> None:
    about = json.loads((folder / "store.json").read_text())
    s3 = boto3.client(
        "s3",
        endpoint_url=about["endpoint"],
        region_name=about["region"],
        aws_access_key_id=about["auditor"]["access_key"],
        aws_secret_access_key=about["auditor"]["secret_key"],
        verify=str(folder / "authority.pem"),
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    objects = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=about["bucket"]):
        for found in page.get("Contents", []):
            body = s3.get_object(Bucket=about["bucket"], Key=found["Key"])["Body"].read()
            objects[found["Key"]] = hashlib.sha256(body).hexdigest()
    uploads = s3.list_multipart_uploads(Bucket=about["bucket"]).get("Uploads", [])
    print(json.dumps({"objects": objects, "uploads": [upload["Key"] for upload in uploads]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
