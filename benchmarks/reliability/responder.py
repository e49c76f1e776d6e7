"""Child process: answers the incidents that it is told of on its standard input, as the flow `respond` does.

A line in is a JSON string: the parameter that an event gives to `respond`. A line out says how it ended.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from millrace import logs
from millrace.errors import ServiceError, UnknownNameError
from millrace.ledger import Ledger
from millrace.settings import Settings, load_settings
from tasks.responses import find_incident, start_training

Said = Literal["answered", "refused", "away"]


def main() -> None:
    settings = load_settings()
    logs.configure("WARNING", json_lines=False)
    ledger = Ledger(settings.ledger)
    for line in sys.stdin:
        print(_respond(settings, ledger, json.loads(line)), flush=True)


def _respond(settings: Settings, ledger: Ledger, key: str) -> Said:
    try:
        start_training(settings, ledger, find_incident(ledger, key))
    except UnknownNameError:
        return "refused"
    except ServiceError:
        return "away"
    return "answered"


if __name__ == "__main__":
    main()
