"""Which cheap rule tells best what may stay frozen?"""
