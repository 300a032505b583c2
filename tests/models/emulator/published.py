"""The layer lists that CRaSh's scripts hold (specification, section 3.2): name -> (layers, trained, frozen)."""

PUBLISHED = {
    "1.3B ARC, WebQs": (24, [0, 5, 18, 23], [1, 2, 3, 9, 12, 15, 20, 22]),
    "1.3B HellaSwag": (24, [0, 5, 12, 23], [1, 2, 3, 8, 10, 11, 17, 22]),
    "1.3B OBQA": (24, [0, 8, 19, 23], [1, 4, 6, 10, 12, 15, 21, 22]),
    "6.7B OBQA, PIQA, SciQ, RACE": (
        32,
        [0, 8, 17, 31],
        [1, 2, 3, 5, 6, 7, *range(9, 14), 15, 20, 22, 23, 24, 27, 30],
    ),
    "6.7B ARC, WebQs": (32, [0, 9, 16, 31], [1, 2, 3, 5, 7, 8, *range(10, 16), 19, 22, 24, 25, 28, 30]),
    "6.7B HellaSwag": (32, [0, 7, 14, 31], [*range(1, 7), *range(8, 14), 15, 16, 17, 21, 27, 30]),
}
# Run by the authors' rule on the first of them.
REPEAT_ALL = [0, 1, 2, 3, 5, 5, 5, 9, 9, 9, 9, 12, 12, 12, 15, 15, 15, 18, 18, 20, 20, 22, 22, 23]
REPEAT_NON_TRAINABLE = [0, 1, 2, 3, 3, 5, 9, 9, 9, 9, 9, 12, 12, 12, 15, 15, 15, 15, 18, 20, 20, 22, 22, 23]
