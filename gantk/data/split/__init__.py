"""Training, validation and test: who is held out, and whether anything stands on two sides."""
