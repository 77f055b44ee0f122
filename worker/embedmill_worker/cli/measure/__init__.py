"""What the benchmarks of the command line load and measure."""
