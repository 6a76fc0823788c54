"""What the API refuses or lets fail later although every field has its type: one module for each part of a manifest."""
