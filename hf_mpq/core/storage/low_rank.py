"""Two thin factors whose product is added to the weight."""

from dataclasses import dataclass

from .sizes import ITEM_BYTES


@dataclass(frozen=True)
class LowRankStorage:
    """Factors of the rows and of the input channels that are stored.

    Attributes:
        rank: columns of the first factor and rows of the second.
        rows, channels: how many are stored.
        float_dtype: type of the factors.
    """

    rank: int
    rows: int
    channels: int
    float_dtype: str

    def buffers(self) -> dict[str, int]:
        """Name to bytes of each stored tensor."""
        item = self.rank * ITEM_BYTES[self.float_dtype]
        return {"low_rank_rows": self.rows * item, "low_rank_columns": self.channels * item}
