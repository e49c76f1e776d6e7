"""A real S3 API in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(*buckets: str) -> Iterator[s3fs.S3FileSystem]:
    """While the block runs, the environment names a server with these empty buckets."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # The servers of one process share what they hold.
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        for bucket in buckets:
            files.mkdir(bucket)
        try:
            yield files
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()
