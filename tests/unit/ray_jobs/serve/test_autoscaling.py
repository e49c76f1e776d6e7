"""The policy as Ray Serve holds and calls it: its configuration, its context, what happens around it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.autoscaling.readings import KEYS
from millrace.spec import AutoscalingSpec, ServingSpec
from ray_jobs.serve.autoscaling import ReplicasPolicy, Scaling, autoscaling_config, new_readings

START = 1_700_000_000.0
SPEC = ServingSpec(
    autoscaling=AutoscalingSpec(min_replicas=1, max_replicas=3, cool_down_seconds=30.0), latency_target_ms=100.0
)


# What Ray's own modules warn of while they are imported, and while they copy a configuration.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def identity(name: str) -> Any:
    from ray.serve._private.common import DeploymentID, ReplicaID

    return ReplicaID(name, DeploymentID("model", "tiny"))


def state_of(spec: ServingSpec) -> Any:
    """Serve's own keeper of one deployment's autoscaling, which calls the policy; it needs no cluster."""
    from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
    from ray.serve._private.common import DeploymentID

    info = SimpleNamespace(
        deployment_config=SimpleNamespace(autoscaling_config=autoscaling_config(spec), gang_scheduling_config=None),
        target_capacity=None,
        target_capacity_direction=None,
    )
    state: Any = DeploymentAutoscalingState(DeploymentID("model", "tiny"))
    assert state.register(info, 1) == 1
    return state


class Serve:
    """The controller's side of a deployment: replicas report each second, then it decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spec: ServingSpec = SPEC) -> None:
        self.now = START
        monkeypatch.setattr("time.time", lambda: self.now)
        self.state = state_of(spec)
        self.wanted = 1
        self.points: dict[str, dict[str, list[Any]]] = {}

    def second(self, rate: float) -> int:
        """One second in which `rate` requests of 20 ms come to those that run; all that is wanted runs at once."""
        from ray.serve._private.common import ReplicaMetricReport, TimeStampedValue

        self.now += 1
        names = [f"r{number}" for number in range(self.wanted)]
        for name in names:
            series = self.points.setdefault(name, {key: [] for key in KEYS})
            share, known = rate / len(names), len(series["arrivals_total"]) > 0
            for key, more in zip(KEYS, (share, share, share * 0.02, share * 0.0005, 0.0, 0.0, 0.0), strict=True):
                last = series[key][-1].value if known else 0.0
                series[key].append(TimeStampedValue(self.now - 0.4, last + more if known else 0.0))
            metrics = {key: points[-30:] for key, points in series.items()}
            self.state.record_request_metrics_for_replica(ReplicaMetricReport(identity(name), metrics, self.now))
        self.state.update_running_replica_ids([identity(name) for name in names])
        for _ in range(5):
            self.wanted = self.state.get_decision_num_replicas(self.wanted)
        return self.wanted


def test_from_one_to_three_and_back_through_serves_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(monkeypatch)
    assert {serve.second(10.0) for _ in range(20)} == {1}
    up = [serve.second(140.0) for _ in range(4)]
    assert up[-1] == 3, "more than three would be needed, and no more are allowed"
    down = [serve.second(10.0) for _ in range(60)]
    assert down[20] == 3
    assert down[-1] == 1


def test_a_new_policy_goes_on_from_what_the_replicas_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(monkeypatch)
    for _ in range(20):
        serve.second(10.0)
    serve.state = state_of(SPEC)
    assert serve.second(200.0) == 3, "one report holds all that it takes to see the burst in it"


def test_the_configuration_leaves_the_timing_to_the_policy_and_tells_within_a_second() -> None:
    config = autoscaling_config(SPEC)
    assert config is not None
    assert (config.min_replicas, config.max_replicas) == (1, 3)
    assert (config.upscale_delay_s, config.downscale_delay_s, config.metrics_interval_s) == (0.0, 0.0, 1.0)
    policy = config.policy.get_policy()
    assert policy.__name__ == "ReplicasPolicy"
    built = policy(**config.policy.policy_kwargs)
    assert built._arguments == (0.1, 30.0)


def test_the_configuration_outlives_the_way_to_the_controller() -> None:
    from ray.serve._private.config import DeploymentConfig

    sent = DeploymentConfig(num_replicas=1, autoscaling_config=autoscaling_config(SPEC))
    got = DeploymentConfig.from_proto_bytes(sent.to_proto_bytes())
    assert got == sent
    assert got.autoscaling_config is not None
    assert got.autoscaling_config.metrics_interval_s == 1.0
    # As a deploy reads it back from Serve's details, to see whether something is to change.
    assert Scaling.of_deployment({"autoscaling_config": got.autoscaling_config.model_dump()}) == Scaling.of(SPEC)


def test_another_target_is_another_configuration() -> None:
    slower = SPEC.model_copy(update={"latency_target_ms": None})
    assert Scaling.of(slower) == Scaling(1, 3, {"latency_target_seconds": None, "cool_down_seconds": 30.0})
    assert Scaling.of(slower) != Scaling.of(SPEC)


def test_a_fixed_number_has_no_policy() -> None:
    assert autoscaling_config(ServingSpec()) is None
    assert Scaling.of(ServingSpec(latency_target_ms=5.0)) is None
    assert Scaling.of_deployment({"num_replicas": 2}) is None


def context(**changes: Any) -> Any:
    known = {
        "app_name": "tiny",
        "current_time": START,
        "running_replicas": [],
        "current_num_replicas": 2,
        "target_num_replicas": 2,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 5,
        "raw_metrics": {},
    }
    return SimpleNamespace(**known | changes)


@pytest.mark.parametrize(
    "broken",
    [
        {"raw_metrics": None},
        {"current_time": None},
        {"running_replicas": [SimpleNamespace(unique_id="a")], "raw_metrics": {KEYS[0]: None}},
        {"running_replicas": [object()]},
        {"raw_metrics": 7, "running_replicas": [SimpleNamespace(unique_id="a")]},
    ],
)
def test_whatever_the_context_holds_the_number_stays_and_nothing_is_raised(broken: dict[str, Any]) -> None:
    policy = ReplicasPolicy(0.1, 30.0)
    assert policy(context(**broken)) == (2, {})


def test_points_that_are_damaged_or_old_are_left_out() -> None:
    point = SimpleNamespace
    series: dict[str, Any] = {key: [point(timestamp=float(n), value=1.0) for n in range(1, 5)] for key in KEYS}
    assert [reading.time for reading in new_readings(series, after=2.0)] == [3.0, 4.0]
    series[KEYS[0]] = [point(timestamp=3.0, value=float("nan")), point(timestamp=4.0, value=1.0)]
    assert [reading.time for reading in new_readings(series, after=0.0)] == [4.0]
    assert new_readings({key: [] for key in KEYS}, after=0.0) == []
    assert new_readings({"running_requests": series[KEYS[1]]}, after=0.0) == []


def test_the_controller_need_not_load_what_replicas_do() -> None:
    code = (
        "import sys, ray_jobs.serve.autoscaling; print(sorted({'torch', 'pandas', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
