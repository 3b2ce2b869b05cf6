"""Training: programs that accelerate launches, and the releases that they lead to."""
