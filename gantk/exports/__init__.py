"""Code that all exporters of trained models share."""
