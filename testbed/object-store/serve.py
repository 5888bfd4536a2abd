"""An S3-compatible object store in memory with one bucket: `serve.py FOLDER`. Every request needs a valid signature.

FOLDER/certificate.pem and FOLDER/key.pem are its TLS. Once it listens, FOLDER/store.json says what a client needs: `service` has the
permissions that docs/guides/service.md asks for and no others, `auditor` may see everything.
"""

import json
import sys
from pathlib import Path

from moto import settings
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUCKET = "fleet-artifacts"
REGION = "eu-north-1"
SERVICE = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]


def user(name: str, actions: list[str]) -> dict[str, str]:
    """Makes a user who may do this with the bucket and everything in it, and a key of theirs."""
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("aws", name)
    key = iam.create_access_key(name)
    resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    iam.put_user_policy(name, "bucket", json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    return {"access_key": key.access_key_id, "secret_key": key.secret_access_key}


def main(folder: Path) -> None:
    get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, REGION)
    users = {"service": user("service", SERVICE), "auditor": user("auditor", ["s3:*"])}
    # From here on nobody is let in without a signature and a permission.
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    server = make_server(
        "127.0.0.1",
        0,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=MotoRequestHandler,
        ssl_context=(str(folder / "certificate.pem"), str(folder / "key.pem")),
    )
    about = {"endpoint": f"https://127.0.0.1:{server.server_port}", "bucket": BUCKET, "region": REGION, **users}
    unfinished = folder / "store.json.new"
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(about))
    unfinished.rename(folder / "store.json")
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
