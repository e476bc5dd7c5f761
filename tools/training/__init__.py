"""What train.py needs beside the method: paths, model files, checkpoint, optimizer, generators, console."""
