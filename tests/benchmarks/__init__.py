"""What agentrun costs, as ratios to plain programs that do the same work. ``python -m tests.benchmarks``."""
