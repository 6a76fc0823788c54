"""How a model is trained: the loop, its metrics, histories and numerics. Knows datasets and models by contract only."""
