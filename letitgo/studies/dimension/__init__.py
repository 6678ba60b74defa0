"""How few dimensions are enough?"""
