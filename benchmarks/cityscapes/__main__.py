from benchmarks.cityscapes.study import main

main()
