from benchmarks.ppmi.study import main

main()
