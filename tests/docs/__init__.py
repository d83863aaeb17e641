"""The pages: what they name is there, what they show runs, and they use the words of the glossary."""
