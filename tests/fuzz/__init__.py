"""Fuzzing the runtime with whole programs: ``python -m tests.fuzz --seed 1 --seconds 600``."""
