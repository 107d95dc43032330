"""How long a test waits for a process that it started: however busy the machine is, but not for ever."""

PATIENCE = 600  # seconds, far beyond what anything takes
