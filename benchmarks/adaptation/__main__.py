import warnings

from benchmarks.adaptation.study import main

warnings.simplefilter("error")
main()
