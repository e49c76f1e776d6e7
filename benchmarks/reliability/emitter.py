"""Child process of the baseline: `prefect.events.emit_event` for each event on its standard input, a JSON line each."""

from __future__ import annotations

import json
import sys
from typing import Any

from prefect.events import emit_event
from prefect.exceptions import EventTooLarge


def main() -> None:
    for line in sys.stdin:
        print(_emit(json.loads(line)), flush=True)


def _emit(event: dict[str, Any]) -> str:
    try:
        emit_event(event=event["event"], resource=event["resource"], payload=event["payload"], id=event["id"])
    except (KeyError, ValueError, TypeError, EventTooLarge):
        return "refused"
    return "emitted"


if __name__ == "__main__":
    main()
