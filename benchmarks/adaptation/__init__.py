"""Networks adapted to shifted images: ``python -m benchmarks.adaptation``, and the smaller studies around it."""
