"""How a training is shown while it runs: in a terminal, as plain lines, in a notebook, to TensorBoard."""
