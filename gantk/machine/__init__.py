"""The machine: device, precision, memory, and the ranks of one training over several processes."""
