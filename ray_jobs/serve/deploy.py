"""Which versions of a pipeline Ray Serve answers with. The caller has connected to Ray; Serve is running already."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import millrace
from millrace.errors import MillraceError, PackageError, ServiceError
from millrace.faults import fault_point
from millrace.inference_log import inference_folder
from millrace.ingress_queue import IngressQueue
from millrace.pipeline import Pipeline, load_pipeline
from millrace.quotas import Usage, usage_folder
from millrace.settings import Settings
from millrace.storage import ObjectStore
from ray_jobs.serve.autoscaling import Scaling, autoscaling_config
from ray_jobs.serve.door import Door
from ray_jobs.serve.metrics import metrics_folder
from ray_jobs.serve.places import ROOM
from ray_jobs.serve.plan import Served, TrafficPlan, plan_of
from ray_jobs.serve.versions import other_package

DEPLOYMENT = "model"

_LOAD_SECONDS = 300.0
_POLL_SECONDS = 0.05
_MAX_CONSTRUCTOR_TRIES = 2
_CODE = "code"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What serves now: the primary's version. `seconds` is how long the call that says so took, `switch_seconds` the
    part of it in which the replicas changed over, one after the other."""

    name: str
    version: str
    url: str
    seconds: float
    replicas: int
    switch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _State:
    """What the Serve controller holds of a pipeline."""

    plan: TrafficPlan | None
    code: str
    status: str
    message: str
    running: int
    wanted: int
    scaling: Scaling | None


def deploy(
    settings: Settings, pipeline_name: str, served: Served, prove: Callable[[], None] = lambda: None
) -> Deployed:
    """Serve a version of the pipeline, or several by a plan; on any error what served before still does.

    Calling it again for what serves changes nothing. `prove` is called before each change and raises when whoever
    calls this may no longer make it.

    Raises:
        FencedError: a replica was told of a later token than the plan's.
        ArtifactError: a package is absent.
        DigestError: it is another package than was registered, or damaged.
        PackageError: it does not answer as its trainer did, does not take the primary's requests, or its replicas do
            not start.
        ServiceError: Serve is not running.
    """
    started = time.perf_counter()
    plan = plan_of(served)
    pipeline = load_pipeline(pipeline_name, settings.pipelines)
    store = ObjectStore.of(settings)
    for target in plan.targets:
        package = store.get(target.package_key)
        if package.digest != target.package_digest:
            raise other_package(target, package.digest)
    client = _client()
    state = _state(client, pipeline_name)
    code = code_version(pipeline, settings)
    is_current = state is not None and _is_current(state, plan, code, pipeline)
    runs = state is not None and state.running > 0 and state.code == code
    switched = 0.0
    # A replica that was started with a plan it cannot keep serves the primary alone: whoever wants the plan is told.
    if runs and not (is_current and plan.is_alone):
        prove()
        switched = _switch(pipeline_name, plan)
    if not is_current:
        prove()
        _run(settings, pipeline, plan, code, previous=state.plan if state else None)
    if not runs and not plan.is_alone:
        prove()
        switched = _switch(pipeline_name, plan)
    seconds, replicas = time.perf_counter() - started, _running(client, pipeline)
    return _deployed(settings, pipeline_name, plan.primary.version, seconds, replicas, switched)


def serving(settings: Settings, pipeline_name: str) -> Deployed | None:
    """The version of the pipeline that serves, or None.

    Raises:
        ServiceError: Serve is not running.
    """
    started = time.perf_counter()
    state = _state(_client(), pipeline_name)
    if state is None or state.plan is None or not state.running:
        return None
    version = state.plan.primary.version
    return _deployed(settings, pipeline_name, version, time.perf_counter() - started, state.running)


def remove(pipeline_name: str) -> None:
    """Stop serving the pipeline; nothing happens when it is not served.

    Raises:
        ServiceError: Serve is not running.
    """
    from ray import serve

    _client()
    with fault_point("serve.remove"):
        serve.delete(pipeline_name)


def _client() -> Any:
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        raise ServiceError("Ray Serve is not running", next="start it with `make run`")
    return client


def _state(client: Any, pipeline_name: str) -> _State | None:
    with fault_point("serve.ask"):
        application = client.get_serve_details()["applications"].get(pipeline_name)
    if application is None:
        return None
    deployment = application["deployments"].get(DEPLOYMENT)
    if deployment is None:
        return _State(None, "", application["status"], application["message"], 0, 0, None)
    config = dict(deployment["deployment_config"].get("user_config") or {})
    code = config.pop(_CODE, "")
    running = sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
    message = deployment["message"] or application["message"]
    plan = TrafficPlan.from_config(config) if config else None
    wanted = deployment["target_num_replicas"]
    scaling = Scaling.of_deployment(deployment["deployment_config"])
    return _State(plan, code, application["status"], message, running, wanted, scaling)


def _is_current(state: _State, plan: TrafficPlan, code: str, pipeline: Pipeline) -> bool:
    spec = pipeline.spec.serving
    scaling = Scaling.of(spec)
    # How many are wanted just now is the policy's matter, where there is one.
    enough = state.running > 0 if scaling else state.running == state.wanted == spec.replicas
    return (
        state.plan == plan and state.code == code and state.status == "RUNNING" and state.scaling == scaling and enough
    )


def _running(client: Any, pipeline: Pipeline) -> int:
    """How many replicas answer once a deploy is done."""
    if pipeline.spec.serving.autoscaling is None:
        return pipeline.spec.serving.replicas
    state = _state(client, pipeline.name)
    return 0 if state is None else state.running


def _switch(pipeline_name: str, plan: TrafficPlan) -> float:
    """Bring `plan` to the running replicas: all load it, then all serve by it; the seconds of the latter. No replica
    leaves the rotation."""
    from ray import serve

    handle = serve.get_deployment_handle(DEPLOYMENT, pipeline_name)
    # In throughput mode a handle's router wants the caller's event loop, and a driver has none.
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]
    began = 0.0
    for method in ("prepare", "activate"):
        began = time.perf_counter()
        try:
            with fault_point("serve.broadcast"):
                errors = handle.broadcast(method, plan.as_config()).results(timeout_s=_LOAD_SECONDS)
        except TimeoutError as error:
            raise ServiceError(
                f"the replicas of {pipeline_name} did not load {plan}",
                allowed=f"{_LOAD_SECONDS:g} s",
                next="look at the replica's log, then deploy again",
            ) from error
        for found in errors:
            if isinstance(found, MillraceError):
                raise found
    return time.perf_counter() - began


def _run(settings: Settings, pipeline: Pipeline, plan: TrafficPlan, code: str, *, previous: TrafficPlan | None) -> None:
    """Make `plan` the deployment's durable state, and start its replicas where there are none."""
    try:
        _submit(settings, pipeline, plan, code)
        _wait_until_running(pipeline.name, plan)
    except PackageError:
        # What failed must not be what a replica that crashes later comes back with.
        if previous is None:
            remove(pipeline.name)
        elif previous != plan:
            _submit(settings, pipeline, previous, code)
        raise


def _submit(settings: Settings, pipeline: Pipeline, plan: TrafficPlan, code: str) -> None:
    from ray import serve

    IngressQueue.of(pipeline.spec.serving).write(settings, pipeline.name)
    run = serve.RunTarget(
        _application(settings, pipeline, plan, code), name=pipeline.name, route_prefix=f"/v1/{pipeline.name}"
    )
    with fault_point("serve.submit"):
        serve.run_many([run], wait_for_applications_running=False)


def _wait_until_running(pipeline_name: str, plan: TrafficPlan) -> None:
    # serve.run would look once a second.
    deadline = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < deadline:
        state = _state(_client(), pipeline_name)
        if state is not None and state.status == "RUNNING":
            return
        if state is not None and state.status == "DEPLOY_FAILED":
            raise PackageError(
                f"no replica of {pipeline_name} can serve {plan}",
                got=_reason(state.message),
                next="correct what the message names, then deploy again",
            )
        time.sleep(_POLL_SECONDS)
    raise ServiceError(
        f"{pipeline_name} did not come up with {plan}",
        allowed=f"{_LOAD_SECONDS:g} s",
        next="look at Serve's log; are there free CPU cores for its replicas?",
    )


def _application(settings: Settings, pipeline: Pipeline, plan: TrafficPlan, code: str) -> Any:
    from ray import serve

    from ray_jobs.serve.app import Replica

    spec = pipeline.spec.serving
    scaling = autoscaling_config(spec)
    number = {"num_replicas": spec.replicas} if scaling is None else {"autoscaling_config": scaling}
    build: Any = serve.deployment(serve.ingress()(Replica))
    deployment = build.options(
        name=DEPLOYMENT,
        # Serve gives each run a new version by itself, and would start every replica anew for a changed user_config.
        version=code,
        _internal=True,
        **number,
        # More wait in the replica, where customers take turns.
        max_ongoing_requests=spec.max_ongoing_requests * ROOM,
        user_config={**plan.as_config(), _CODE: code},
        ray_actor_options={"num_cpus": spec.cpus_per_replica, "num_gpus": spec.gpus_per_replica},
        max_constructor_retry_count=_MAX_CONSTRUCTOR_TRIES,
        # New code comes up beside the old before that stops.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=2.0,
    )
    log_folder = str(inference_folder(settings, pipeline.name))
    counts_folder = str(metrics_folder(settings, pipeline.name))
    places = (settings.objects, str(settings.signing_key), log_folder, counts_folder)
    door, collector = Door.of(settings, Usage(usage_folder(settings, pipeline.name))), settings.collector
    return deployment.bind(pipeline.name, str(settings.pipelines), *places, door, code, collector)


def code_version(pipeline: Pipeline, settings: Settings) -> str:
    """Digest of what needs new processes when it changes: this repository's code, where things lie, who may ask, and
    the queue at the ingress, which hears of it with its replicas.

    The pipeline folder's own code needs none: it is loaded anew with each version.
    """
    root = Path(millrace.__file__).parent
    files = sorted((*root.rglob("*.py"), *Path(__file__).parent.glob("*.py")))
    door = (str(settings.keys_path), settings.serve_url, str(settings.listens_elsewhere))
    sent_to = settings.collector or ""
    places = (str(pipeline.folder), settings.objects, str(settings.signing_key), str(settings.state), *door, sent_to)
    queue = IngressQueue.of(pipeline.spec.serving)
    digest = hashlib.sha256("\0".join((*places, str(queue))).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _deployed(
    settings: Settings, name: str, version: str, seconds: float, replicas: int, switched: float = 0.0
) -> Deployed:
    return Deployed(name, version, f"{settings.serve_url}/v1/{name}", seconds, replicas, switched)


def _reason(text: str) -> str:
    """The error that a replica's traceback ends with; Serve hands on its text, not the error."""
    return " ".join(re.split(r"\n(?=[\w.]+Error: )", text)[-1].split())
