"""What one process of several runs: `python SCRIPT DEVICES [WORDS] OUT`."""
