"""Where the rows come from: the table that `data.source_options` in pipeline.yaml names."""

from pathlib import Path
from typing import Any

import pandas as pd

from millrace.table_source import TableSource


class Table(TableSource):
    """The table; a relative path in `data.source_options` starts in this folder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(folder=Path(__file__).parent, **options)

    def prepare(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add features of your own here, from the columns of the same row, then list them in pipeline.yaml.

        Whoever asks for predictions must send them too.
        """
        return table
