"""What is optimised: classification, regression, language modelling, preferences."""
