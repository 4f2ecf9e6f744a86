"""Mutation testing of what ``mutmut run`` cannot do: ``python -m tests.mutants``. docs/mutants.md tells how and why.

``making`` has mutmut make the mutants; ``rules`` knows those that cannot change anything, and ``explained.toml`` those
that somebody has looked into; ``reached`` records which test reaches which line; ``planting`` exchanges code;
``asking`` runs the tests on one mutant; ``verdicts`` keeps what came of it, and shows it.
"""
