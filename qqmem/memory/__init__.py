"""What is remembered: the store is the truth, the vectors are its address."""
