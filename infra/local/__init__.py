"""The embedded stack: Prefect, MLflow, Ray and Ray Serve as processes of this machine, on loopback."""
