"""The domain of Millrace: spec, storage, errors, verdicts, ledger, statistics. No Prefect, no Ray, no MLflow."""

__version__ = "0.1.0"
