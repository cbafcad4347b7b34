"""The machine under a training: device, precision, memory, threads, and the ranks of one training.

Read first: runtime (`Runtime`: where tensors go and in which type), then ranks.
Imports nothing of images, recipes' contents or networks, and no room from formats upwards.
"""
