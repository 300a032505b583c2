"""What the playground is about: arithmetic, claims, languages, maths, programs, reviews, scenes, and their checkers."""
