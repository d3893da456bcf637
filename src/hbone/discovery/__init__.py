"""What the mesh looks like: who is where, under which names, and which way leads there."""
