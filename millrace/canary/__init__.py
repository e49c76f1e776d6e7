"""Whether a canary may go on: anytime-valid tests of failures, latency, predictions and quality against the primary."""

from millrace.canary.findings import Finding, Standing
from millrace.canary.judgement import CANARY, CanaryTest
from millrace.canary.observations import Observations
from millrace.canary.rollout import Move, RolloutDecision, decide

__all__ = ["CANARY", "CanaryTest", "Finding", "Move", "Observations", "RolloutDecision", "Standing", "decide"]
