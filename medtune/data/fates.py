"""What became of each document of a source: exactly one fate each, so that the ledger's sums close."""

from enum import IntEnum


class Fate(IntEnum):
    """Why a tokenised document is not in the split that it was read for; ``KEPT`` when it is."""

    KEPT = 0
    VALIDATION = 1  # held out by data.validation_size, seen from training
    DUPLICATE = 2  # data.dedup=exact or near: equal content came earlier
    NEAR_DUPLICATE = 3  # data.dedup=near
    CONTAMINATED = 4  # data.contamination=remove: also in a validation or evaluation split
    CAPPED = 5  # data.max_tokens
    OVERLONG = 6  # data.overlong=drop
    UNLEARNED = 7  # no token of it is learned, and data.on_error=skip
    TRAIN = 8  # the other side of data.validation_size, seen from validation
