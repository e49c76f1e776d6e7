"""How many replicas a pipeline needs: from what they count to a number, by arrivals and service time.

Time is given, never read, and nothing here knows what runs the replicas: the same code decides in the cluster and in
the simulation.
"""

from millrace.autoscaling.autoscaler import Autoscaler, ScalingDecision
from millrace.autoscaling.demand import Demand, History
from millrace.autoscaling.forecast import Forecast, LineForecast
from millrace.autoscaling.queueing import Service, fewest_servers, late_share
from millrace.autoscaling.readings import Reading

__all__ = [
    "Autoscaler",
    "Demand",
    "Forecast",
    "History",
    "LineForecast",
    "Reading",
    "ScalingDecision",
    "Service",
    "fewest_servers",
    "late_share",
]
