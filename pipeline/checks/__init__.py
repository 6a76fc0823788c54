"""What `trainloom doctor` looks at. Checks start nothing and make nothing."""
