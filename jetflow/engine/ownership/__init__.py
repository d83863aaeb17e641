"""Which partitions a worker owns, and what ends with its tenure."""
