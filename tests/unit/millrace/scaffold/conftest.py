"""Tables of three shapes, as people have them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def churn() -> pd.DataFrame:
    """Binary, yes/no label, nulls, booleans, a code with leading zeros, a leak."""
    rows = 1200
    rng = np.random.default_rng(0)
    tenure = rng.gamma(2.0, 10.0, rows).round(1)
    plan = rng.choice(["basic", "plus", "no", "1", "key: value"], rows)
    churned = rng.random(rows) < 1 / (1 + np.exp(0.15 * tenure - 2 + (plan == "plus")))
    table = pd.DataFrame(
        {
            "asked_at": pd.date_range("2024-01-01", periods=rows, freq="7h").strftime("%Y-%m-%d %H:%M:%S"),
            "tenure": tenure,
            "balance": rng.normal(0, 100, rows).round(2),
            "plan": plan,
            "zip": rng.choice(["01234", "99999", "00501"], rows),
            "paperless": rng.choice([True, False], rows),
            "calls": rng.integers(0, 9, rows),
            "churned": np.where(churned, "yes", "no"),
            "refund_code": np.where(churned, "R", "K"),
        }
    )
    table.loc[rng.random(rows) < 0.1, "balance"] = np.nan
    table.loc[rng.random(rows) < 0.1, "calls"] = np.nan
    table.loc[rng.random(rows) < 0.05, "plan"] = None
    return table


@pytest.fixture
def tickets() -> pd.DataFrame:
    """Four classes, an id, free text, no numbers."""
    rows = 900
    rng = np.random.default_rng(1)
    queue = rng.choice(["billing", "login", "delivery", "other"], rows, p=[0.4, 0.3, 0.2, 0.1])
    return pd.DataFrame(
        {
            "ticket": [f"T-{position}" for position in range(rows)],
            "opened": pd.date_range("2023-01-01", periods=rows, freq="13h", tz="Europe/Berlin"),
            "channel": rng.choice(["mail", "phone", "chat"], rows),
            "product": [f"p{value}" for value in rng.zipf(1.6, rows).clip(max=900)],
            "text": [f"hello number {position} please help" for position in range(rows)],
            "queue": queue,
        }
    )


@pytest.fixture
def houses() -> pd.DataFrame:
    """Regression, dates, a constant, an id column without a role, a copy of the target."""
    rows = 800
    rng = np.random.default_rng(2)
    area = rng.normal(100, 25, rows).clip(20).round()
    price = area * 3000 + rng.normal(0, 2e4, rows)
    return pd.DataFrame(
        {
            "sold": pd.date_range("2015-01-01", periods=rows, freq="4D"),
            "listed": pd.date_range("2014-12-01", periods=rows, freq="4D").strftime("%Y-%m-%d"),
            "house_id": np.arange(5000, 5000 + rows),
            "country": "DE",
            "area": area,
            "delta": rng.normal(-3, 1e-4, rows),
            "price_with_tax": price * 1.19,
            "price": price,
        }
    )
