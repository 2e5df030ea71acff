"""What inputs and labels come from: laws of the inputs, teachers, data sets."""
