"""Amazon S3 and compatible storages (MinIO, Ceph, R2), by boto3; imported when it is needed.

The endpoint and credentials come from the environment or the files that every AWS program reads:
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, the role of a machine.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from bench.storage.objects import Entry, Objects, StorageAway, StorageError

# Requests at once: those that upload a run's files, and other calls meanwhile.
CONNECTIONS = 16
# A storage that has not answered within this time is away; the caller decides how often to retry.
CONNECT_SEC, READ_SEC = 5.0, 30.0
ATTEMPTS = 3
# Files up to this size take one request. Amazon allows 5 GiB, but a request that is cut is sent
# anew.
ONE_PUT_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 20

# Error code -> message.
_REFUSED = {
    "NoSuchBucket": "there is no such bucket. Create it, or name another",
    "AccessDenied": "these credentials do not allow that. They need s3:ListBucket on the bucket, "
    "and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects",
    "InvalidAccessKeyId": "the access key is not known there. Check AWS_ACCESS_KEY_ID or "
    "AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key. Check "
    "AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired. Log in again",
    "RequestTimeTooSkewed": "this machine's clock is wrong. Set it, and try again",
    "PermanentRedirect": "the bucket is in another region. Set AWS_REGION to that region",
    "NotImplemented": "this storage lacks a needed feature: conditional writes (If-None-Match)",
}
_REFUSED["403"] = _REFUSED["Forbidden"] = _REFUSED["AccessDenied"]
_AWAY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError")


def opened(bucket: str, path: str) -> Objects:
    """Return the objects of `s3://bucket/path`; raises StorageError if boto3 is missing."""
    address = f"s3://{bucket}/{path}"
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise StorageError(
            f"{address}: S3 needs boto3, which is not installed: run `pip install boto3`."
        ) from error
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(
        connect_timeout=CONNECT_SEC,
        read_timeout=READ_SEC,
        max_pool_connections=CONNECTIONS,
        retries=retries,
    )
    try:
        # Our own session: boto3's shared one is not thread-safe.
        client = boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"{address}: {_one_line(error)}. Check AWS_ENDPOINT_URL.") from error
    return _objects(client, address, bucket, path)


def _objects(client: Any, address: str, bucket: str, path: str) -> Objects:
    def at(name: str) -> dict[str, str]:
        return {"Bucket": bucket, "Key": f"{path}/{name}"}

    def put(name: str, file: BinaryIO) -> None:
        with _told(address):
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size <= ONE_PUT_BYTES:
                client.put_object(**at(name), Body=file)
            else:  # in parts, which become an object once all of them have arrived
                client.upload_fileobj(file, **at(name))

    def create(name: str, content: bytes) -> bool:
        try:
            with _told(address, FileExistsError):
                client.put_object(**at(name), Body=content, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True

    def get(name: str, file: BinaryIO) -> None:
        with _told(address):
            body = client.get_object(**at(name))["Body"]
            file.writelines(iter(lambda: body.read(_BLOCK_BYTES), b""))

    def listed(begin: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        with _told(address):
            pages = client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=f"{path}/{begin}"):
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for item in page.get("Contents", ()):
                    found[item["Key"][len(path) + 1 :]] = Entry(
                        size=item["Size"],
                        tag=item["ETag"].strip('"'),
                        age=(now - item["LastModified"]).total_seconds(),
                    )
        return found

    def remove(names: Collection[str]) -> None:
        for name in names:
            with _told(address):
                client.delete_object(**at(name))

    return Objects(address=address, put=put, create=create, get=get, listed=listed, remove=remove)


@contextmanager
def _told(address: str, exists: type[OSError] = StorageAway) -> Iterator[None]:
    """Raise errors of boto3 as this project's own; `exists` if a condition was not met."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        told = error.response.get("Error", {})
        code, message = str(told.get("Code", "")), " ".join(str(told.get("Message", "")).split())
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(f"{address}: there is no such object") from error
        if status in (409, 412):
            raise exists(f"{address}: {code}: {message}") from error
        if status in (408, 429) or status >= 500 or code in _AWAY:
            raise StorageAway(f"{address}: the storage is unavailable ({status} {code})") from error
        what = _REFUSED.get(code, f"the storage refuses ({code}: {message})")
        raise StorageError(f"{address}: {what}.") from error
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOError,
    ) as error:
        raise StorageError(
            f"{address}: there are no credentials for it ({_one_line(error)}). Set "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a "
            f"role."
        ) from error
    except (boto.ParamValidationError, boto.ProfileNotFound, boto.NoRegionError) as error:
        raise StorageError(f"{address}: {_one_line(error)}.") from error
    except (boto.BotoCoreError, Boto3Error) as error:
        # The rest are connections that failed, were cut, or are silent.
        raise StorageAway(
            f"{address}: the storage does not answer ({_one_line(error)}). Check the network, and "
            f"AWS_ENDPOINT_URL if it is not Amazon's"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
