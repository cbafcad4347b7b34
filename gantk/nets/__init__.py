"""The networks that methods are built from, each one class for 2-D and 3-D alike.

Read first: blocks, then unet and resnet; kernels and winograd compute convolutions on CPUs faster.
Imports neither losses nor data: a network knows its inputs' shape alone.
"""
