"""One file for each measure: a ``TITLE`` and ``measure(settings)``, which yields comparisons. A new file is found."""
