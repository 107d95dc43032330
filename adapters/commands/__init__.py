"""The command line, a file a command. Nobody imports it but the door, :mod:`shrinkstats.cli`."""
