"""`make bench-autoscaling`: deployments that scale, simulated with the very policy that decides in the cluster."""
