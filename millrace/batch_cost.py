"""What a model's batches cost: seconds as a line over rows, learned while it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Weight that an observation keeps after each later one: some hundred batches are remembered.
_KEPT = 0.99
_LARGEST = 1 << 16


@dataclass(slots=True)
class BatchCost:
    """`seconds = fixed + each * rows`, by least squares whose older observations fade (Ljung, 1999, section 11.2).

    Neither part is ever negative. With one size seen only, all of its seconds count as `each`: what is not known to be
    shared is not promised to be.
    """

    _weight: float = field(default=0.0, init=False)
    _rows: float = field(default=0.0, init=False)
    _seconds: float = field(default=0.0, init=False)
    _rows_rows: float = field(default=0.0, init=False)
    _rows_seconds: float = field(default=0.0, init=False)
    fixed: float = field(default=0.0, init=False)
    each: float = field(default=0.0, init=False)

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`."""
        self._weight = self._weight * _KEPT + 1.0
        self._rows = self._rows * _KEPT + rows
        self._seconds = self._seconds * _KEPT + seconds
        self._rows_rows = self._rows_rows * _KEPT + rows * rows
        self._rows_seconds = self._rows_seconds * _KEPT + rows * seconds
        self._fit()

    def seconds(self, rows: int) -> float:
        """What a batch of `rows` is expected to take; 0 before the first one."""
        return self.fixed + self.each * rows

    def rows_within(self, seconds: float) -> int:
        """The largest batch that is expected to take `seconds` at the most; at least 1."""
        if self.each * _LARGEST <= seconds - self.fixed:
            return _LARGEST
        return max(1, int((seconds - self.fixed) / self.each))

    def _fit(self) -> None:
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        spread = self._rows_rows / self._weight - mean_rows * mean_rows
        shared = self._rows_seconds / self._weight - mean_rows * mean_seconds
        # Sizes that differ by less than a tenth of a row say nothing of a slope.
        each = shared / spread if spread > 0.01 else mean_seconds / mean_rows
        self.each = min(max(each, 0.0), mean_seconds / mean_rows)
        self.fixed = mean_seconds - self.each * mean_rows
