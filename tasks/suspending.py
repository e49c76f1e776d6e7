"""Suspending the flow run that calls this, with a form: its process ends, and a later one begins the flow anew.

Prefect's own `suspend_flow_run` stores the form after the state. A run killed between the two would wait without a
form, and nobody could answer it in the UI; so here the form comes first.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, Pause
from prefect.input import RunInput, keyset_from_paused_state
from prefect.input.actions import filter_flow_run_input
from prefect.runtime import flow_run
from prefect.states import Suspended
from prefect.utilities.engine import propose_state_sync

from millrace.errors import ConflictError
from millrace.faults import fault_point

_RESPONSE = "-response"
# Three inputs a round: a form, its description, what was filled in.
_MOST_INPUTS = 200


@dataclass(frozen=True, slots=True)
class Filled:
    """A form as somebody filled it in; `key` names it among the run's."""

    key: str
    values: Mapping[str, Any]


def suspend(form: type[RunInput], about: str) -> NoReturn:
    """End this process; the run goes on when the form, which is about `about`, was filled in, or by `resume`.

    Raises:
        ConflictError: Prefect does not let the run wait: it is being cancelled, or is nobody's deployment.
    """
    # A new key each time: Prefect lets each be used once.
    state: State[Any] = Suspended(pause_key=f"{about}-{uuid.uuid4().hex}")
    keys = keyset_from_paused_state(state)
    state.state_details.run_input_keyset = {str(part): key for part, key in keys.items()}
    with fault_point("prefect.form"):
        form.save(keys)
    try:
        with fault_point("prefect.suspend"), get_client(sync_client=True) as client:
            reached = propose_state_sync(client, state, flow_run_id=uuid.UUID(flow_run.get_id()))
    except Abort as error:
        raise _refused(str(error)) from None
    if not reached.is_paused():
        raise _refused(f"{reached.name}: {reached.message}")
    raise Pause(state=reached)


def filled_forms(about: str) -> list[Filled]:
    """What was filled in so far in this run's forms about `about`, oldest first."""
    with fault_point("prefect.read_forms"):
        found: Any = filter_flow_run_input(f"suspended-{about}-", limit=_MOST_INPUTS)
    return [
        Filled(entry.key, entry.decoded_value if isinstance(entry.decoded_value, dict) else {})
        for entry in found
        if entry.key.endswith(_RESPONSE)
    ]


def _refused(why: str) -> ConflictError:
    return ConflictError("Prefect does not let this flow run wait", got=why, next="start it as a deployment's run")
