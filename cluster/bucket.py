"""Create buckets of an S3-compatible store unless they are there.

    python -m cluster.bucket NAME...

The store and its keys come from ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tasks.errors import UserError, run_main


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.bucket", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    create(parser.parse_args().names)


def create(names: Sequence[str]) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        store = boto3.client("s3")
        there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
        for name in names:
            if name not in there:
                store.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"the bucket store: {error}") from None


if __name__ == "__main__":
    run_main(main)
