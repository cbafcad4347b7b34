"""`gantk slurm`: prints a SLURM job script that trains, saves before its end and
requeues itself.
"""
