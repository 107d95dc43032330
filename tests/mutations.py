"""Files damaged at random, for readers that must not break at them."""

import numpy as np


def mutated(content, rng, head):
    """The bytes after one to three changes, every other one within the first `head` bytes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        start = int(rng.integers(min(head, len(data)) if rng.random() < 0.5 else len(data)))
        length = int(rng.integers(1, 9))
        match rng.integers(5):
            case 0 | 1:
                data[start : start + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 2:
                del data[start:]
            case 3:
                data[start:start] = data[start : start + length]
            case 4:
                data[start : start + length] = bytes(length)
    return bytes(data)
