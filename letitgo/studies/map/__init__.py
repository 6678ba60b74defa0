"""Which layers need training?"""
