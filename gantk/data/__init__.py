"""Images in and out: where they come from, how they are split, fitted, scaled and augmented, how results go back."""
