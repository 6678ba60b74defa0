"""Do the dense layers of a network align as it trains?"""
