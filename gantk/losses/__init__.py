"""What networks are trained to minimise: pure functions of images, logits and features."""
