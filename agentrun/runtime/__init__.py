"""The nursery around the centre: opening a run, driving it, steering it, tearing it down."""
