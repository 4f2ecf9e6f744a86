"""The centre: what a run is made of and how it decides, without I/O."""
