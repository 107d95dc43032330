from benchmarks.cifar10.study import main

main()
