"""Where examples come from: datasets, the samplers that order them and the loaders that batch them."""
