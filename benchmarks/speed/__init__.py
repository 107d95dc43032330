"""What layers, moments and large data cost, in time and memory; on a GPU too."""
