"""Write a verification's results: JUnit, and the tensors of failed checks."""
