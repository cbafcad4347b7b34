"""Other toolkits beside gantk: their own classes on the same batches, timed and scored by the same driver."""
