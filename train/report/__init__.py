"""The command `report`: a page about a run."""
