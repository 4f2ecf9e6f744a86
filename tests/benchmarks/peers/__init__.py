"""One file for each contestant: a class ``DRIVER``. A new file is found.

The runner reads the requirements before it has installed them: at its top, a file may import only the standard library
and ``contest.driver``, unless its packages are in the environment of the benchmarks.
"""
