"""One process: its parts are built, introduced to each other, run and stopped here, and nowhere else."""
