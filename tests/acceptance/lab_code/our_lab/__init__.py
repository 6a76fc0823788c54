"""Classes of a lab, written from the catalogue alone: nothing here knows trainloom."""
