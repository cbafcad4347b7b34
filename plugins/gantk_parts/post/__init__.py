"""Post-steps that correct translated images by their inputs: slices that agree, the bias field."""
