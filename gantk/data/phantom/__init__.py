"""The synthetic heads that need no download: anatomy, contrasts, and the data source over them."""
