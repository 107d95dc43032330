"""Draw the charts of docs/ from the recorded results, and exact risks: ``python -m benchmarks.charts``."""

from benchmarks.claims.pictures import risks
from benchmarks.speed.pictures import layers

if __name__ == "__main__":
    for chart in (layers, risks):
        print(f"written: {chart()}")
