"""What train.py needs besides the method: paths, model files, checkpoint, optimizer, generators, console."""
