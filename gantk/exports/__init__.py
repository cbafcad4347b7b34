"""What every exporter of trained models shares."""
