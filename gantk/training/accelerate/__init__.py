"""Everything that makes a training step faster without changing its result; one key, train.fast, turns it off."""
