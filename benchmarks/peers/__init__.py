"""Other toolkits beside gantk: their own classes on the same batches, timed by the same driver."""
