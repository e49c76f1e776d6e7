"""The process that answers what is mirrored: `python -m tasks.shadow NAME`. The reconciler keeps one while the ledger
names a shadow; it ends by itself when the ledger names another, or when the reconciler is gone.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import closing

from millrace import logs
from millrace.errors import DigestError, MillraceError
from millrace.inference_log import inference_folder
from millrace.ledger import Ledger, TrafficRecord
from millrace.logs import get_logger
from millrace.pipeline import load_pipeline
from millrace.settings import Settings, load_settings
from millrace.storage import ObjectStore
from ray_jobs.serve.metrics import ShadowMetrics, metrics_folder
from ray_jobs.serve.shadow import Shadow, yield_to_all
from ray_jobs.serve.versions import LoadedVersion, Target, load_version
from tasks.registry import Registry

#: Seconds between two looks at the log, and at the ledger.
LOOK_SECONDS = 0.2
ASK_SECONDS = 2.0


def load_shadow(settings: Settings, name: str, number: str, promised: str) -> LoadedVersion:
    """Version `number`, whose package has the digest `promised`; errors as in `load_version`.

    Raises:
        DigestError: the registry names another package for it than the ledger.
    """
    version = Registry(settings).version(name, number)
    if version.package_digest != promised:
        raise DigestError(
            f"version {number} of '{name}' is not the package that was to be mirrored to",
            got=version.package_digest,
            allowed=promised,
            next=f"put the registry's tags right, or end it: millrace traffic {name} --shadow {number}=0",
        )
    target = Target(number, version.package_key, version.package_digest)
    return load_version(target, ObjectStore.of(settings), load_pipeline(name, settings.pipelines))


def wanted(ledger: Ledger, name: str) -> TrafficRecord | None:
    """The rules of now, where they name a shadow."""
    record = ledger.traffic(name)
    return record if record is not None and record.rules.shadow is not None else None


def run(settings: Settings, name: str, parent: int) -> None:
    """Mirror until the ledger says otherwise, or process `parent` is gone.

    Raises:
        MillraceError: the version cannot be loaded, or the ledger is away.
    """
    with closing(Ledger(settings.ledger)) as ledger:
        record = wanted(ledger, name)
        if record is None or record.rules.shadow is None:
            return
        number, share = record.rules.shadow.version, record.rules.shadow.share
        loaded = load_shadow(settings, name, number, record.packages[number])
        counted = ShadowMetrics(name, metrics_folder(settings, name) / socket.gethostname())
        with closing(Shadow(loaded, share, inference_folder(settings, name), count=counted.count)) as shadow:
            get_logger().info("mirroring", pipeline=name, version=number, share=share)
            asked = time.monotonic()
            while os.getppid() == parent:
                try:
                    shadow.look()
                except MillraceError as error:
                    get_logger().warning("not mirrored", pipeline=name, error=str(error))
                if time.monotonic() - asked >= ASK_SECONDS:
                    now, asked = wanted(ledger, name), time.monotonic()
                    if now is None or now.entry.sequence != record.entry.sequence:
                        return
                time.sleep(LOOK_SECONDS)


def main() -> None:
    """The process; what it cannot do is logged, and the reconciler starts another one later."""
    yield_to_all()
    settings = load_settings()
    logs.configure(settings.log_level, json_lines=settings.log_json)
    name, parent = sys.argv[1], os.getppid()
    try:
        run(settings, name, parent)
    except MillraceError as error:
        get_logger().error("no shadow", pipeline=name, error=str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
