"""Models, one file each: built from shapes and parameters; they give an output and a regularization loss."""
