"""The networks that methods are built from, each one class for 2-D and 3-D alike."""
