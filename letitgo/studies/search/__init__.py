"""Which layers may stay frozen, all together?"""
