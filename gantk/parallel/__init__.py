"""Several processes that train as one: their launch, their meeting, their gradients, their start after one has died."""
