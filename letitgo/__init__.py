"""letitgo: which parts of a network need training, and what does it cost to leave the rest alone?"""

__version__ = "0.1.0"
