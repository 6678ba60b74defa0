"""How much of a network has to be learned? (RT18, arXiv:1802.00844)"""
